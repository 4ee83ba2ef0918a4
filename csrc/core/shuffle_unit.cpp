// The units of ShuffleNetV2.
//
// A run of units moves no channel before its end. Every branch writes a dense tensor of its own;
// the value between two units is only known by where its channels are:
//
//   y_t[2i] = y_{t-1}[i], y_t[2i+1] = b_t[i],   i < half;   y_0 = b_0
//
// where b_0 is the shortcut's output (or the first half of x) and b_t the t-th branch's. A branch
// reads the second half of y_t through a table of offsets. The end of the run puts the channels
// into their places: the first `n` channels of y_t are those of y_{t-1} and b_t in turn, n / 2
// each.
#include <algorithm>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {
namespace {

/// The tensors b_0 ... b_t, of `half` channels each in pixels of whole vectors.
template <typename T>
class Pieces {
 public:
  /// Tensors of which no channel is part of the value any more are used again: of b_t (t > 0) the
  /// first half / 2^s channels are left s units later. b_0 keeps one for ever.
  Pieces(Workspace::Scope& scope, std::int64_t units, std::int64_t pixels, std::int64_t half)
      : stride_(round_up(half, kHalfBlock)), tensor_(pixels * stride_) {
    std::int64_t lives = 0;  // units until nothing is left
    while ((std::int64_t{1} << lives) < 2 * half) ++lives;
    count_ = std::min(units + 1, lives + 2);
    memory_ = scope.take<T>(count_ * tensor_);
  }

  T* tensor(std::int64_t t) const { return memory_ + slot(t) * tensor_; }
  std::int64_t stride() const { return stride_; }

  /// `at` has where each channel of y_{t-1} is, as an offset from tensor(0), and gets that of y_t;
  /// with t = 1 the first half of y_0 is b_0.
  void next(std::int64_t t, std::int64_t half, std::int64_t* at) const {
    const std::int64_t branch = slot(t) * tensor_;
    for (std::int64_t i = half - 1; i >= 0; --i) {  // from the back: 2 i + 1 is not needed any more
      at[2 * i + 1] = branch + i;
      at[2 * i] = t == 1 ? i : at[i];
    }
  }

 private:
  std::int64_t slot(std::int64_t t) const { return t == 0 ? 0 : 1 + (t - 1) % (count_ - 1); }

  std::int64_t stride_, tensor_, count_;
  T* memory_;
};

/// y_t, its channels in their places. b(s) is the tensor b_s, its pixels `stride` apart, those of
/// b_0 `stride_0`.
template <typename T, typename Tensor>
void put_in_order(const RunOf<T>& run, std::int64_t t, Tensor b, std::int64_t stride_0,
                  std::int64_t stride, std::int64_t half, std::int64_t pixels, T* y) {
  // Blocks of pixels small enough for the first cache.
  constexpr std::int64_t kPixels = 16;
  const std::int64_t tasks = std::min<std::int64_t>(plan_threads(pixels * half * 8, run.threads),
                                                    ceil_div(pixels, kPixels));
  Workspace::Scope scope(Workspace::of_this_thread());
  // As many channels of y_s as y_t takes of it, in whole vectors before the last step.
  std::int64_t* channels = scope.take<std::int64_t>(t + 1);
  channels[t] = 2 * half;
  for (std::int64_t s = t - 1, taken = half; s > 0; --s, taken = (taken + 1) / 2) {
    channels[s] = round_up(taken, 2 * kHalfBlock);
  }
  const std::int64_t buffer = kPixels * round_up(half, 2 * kHalfBlock);
  T* scratch = scope.take<T>(tasks * 2 * buffer);
  run.for_shares(tasks, pixels, kPixels,
                 [&](std::int64_t first, std::int64_t last, std::int64_t task) {
                   T* const mine = scratch + task * 2 * buffer;
                   for (; first < last; first += kPixels) {
                     const std::int64_t count = std::min(kPixels, last - first);
                     const T* value = b(0) + first * stride_0;
                     std::int64_t value_stride = stride_0;
                     for (std::int64_t s = 1; s <= t; ++s) {
                       T* to = s == t ? y + first * 2 * half : mine + s % 2 * buffer;
                       const T* const from[2] = {value, b(s) + first * stride};
                       const std::int64_t strides[2] = {value_stride, stride};
                       block::channel_shuffle(run.kernels)(
                           {from, strides, to, channels[s], count, 2, channels[s]});
                       value = to;
                       value_stride = channels[s];
                     }
                   }
                 });
}

}  // namespace

template <typename T>
void run_shuffle_units(const RunOf<T>& run, const Record* units, std::size_t count, const T* x,
                       const Shape& shape, T* y) {
  const Record& first = units[0];
  const bool has_shortcut = first.parts.size() == 2;
  const Shape out = record_output("run", first, {1, shape.c, shape.h, shape.w});
  const std::int64_t pixels = out.h * out.w;
  const std::int64_t half = out.c / 2;
  const auto last = static_cast<std::int64_t>(count);
  Workspace::Scope scope(Workspace::of_this_thread());
  const Pieces<T> pieces(scope, last, pixels, half);
  const std::int64_t stride = pieces.stride();
  Shape in = shape;
  if (has_shortcut) {
    run_separable(run, first.parts[1], {x, shape.c}, in, pieces.tensor(0), stride);
    run_separable(run, first.parts[0], {x, shape.c}, in, pieces.tensor(1), stride);
  } else {
    in.c = half;
    run_separable(run, first.parts[0], {x + half, shape.c}, in, pieces.tensor(1), stride);
    if (count == 1) {
      put_in_order(
          run, 1, [&](std::int64_t s) { return s == 0 ? x : pieces.tensor(s); }, shape.c, stride,
          half, pixels, y);
      return;
    }
    // The table wants all pixels equally far apart.
    block::channel_shuffle(run.kernels)({&x, &shape.c, pieces.tensor(0), stride, pixels, 1, half});
  }
  std::int64_t* offsets = scope.take<std::int64_t>(2 * half);
  const Shape inside = {1, half, out.h, out.w};
  for (std::int64_t t = 1; t < last; ++t) {
    pieces.next(t, half, offsets);
    const Record& branch = units[t].parts[0];
    run_separable(run, branch, {pieces.tensor(0), stride, offsets + half}, inside,
                  pieces.tensor(t + 1), stride);
  }
  put_in_order(
      run, last, [&](std::int64_t s) { return pieces.tensor(s); }, stride, stride, half, pixels, y);
}

template void run_shuffle_units(const Run&, const Record*, std::size_t, const float*, const Shape&,
                                float*);
template void run_shuffle_units(const RunOf<Half>&, const Record*, std::size_t, const Half*,
                                const Shape&, Half*);

}  // namespace weebill
