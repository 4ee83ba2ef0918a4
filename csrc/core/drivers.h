// One driver per kind of record: plan -> scratch -> bands -> kernels. Internal to the core.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "core/record.h"
#include "core/streams.h"
#include "core/workspace.h"

namespace weebill {

/// The kernels of networks' blocks, for drivers that are written once for both types of elements:
/// block::pointwise(run.kernels)(args) is pointwise_f32 or pointwise_f16.
namespace block {
#define WEEBILL_BLOCK_KERNEL(stem, Args, summary)                         \
  inline auto stem(const KernelTable& table) { return table.stem##_f32; } \
  inline auto stem(const HalfKernelTable& table) { return table.stem##_f16; }
#include "core/kernels.def"
#undef WEEBILL_BLOCK_KERNEL
inline bool leaves_zeros_out(const KernelTable& table) { return table.leaves_zeros_out; }
inline bool leaves_zeros_out(const HalfKernelTable&) { return false; }
}  // namespace block

template <typename T>
struct TableOf;
template <>
struct TableOf<float> {
  using Type = KernelTable;
};
template <>
struct TableOf<Half> {
  using Type = HalfKernelTable;
};

/// What a driver runs with. Inside a parallel region `threads` is 1.
template <typename T>
struct RunOf {
  const typename TableOf<T>::Type& kernels;
  Caches caches;  ///< as plans count in float32: twice their size for Half
  int threads;
  bool streams = false;         ///< what a depthwise convolution writes goes past the caches
  AheadOf<T>* ahead = nullptr;  ///< how far weights have been fetched, by the only thread

  /// body(task) for each task, in parallel where there is more than one thread.
  template <typename Body>
  void for_each(std::int64_t tasks, Body&& body) const {
    if (threads == 1) {
      for (std::int64_t task = 0; task < tasks; ++task) body(task);
    } else {
      parallel_for(tasks, body);
    }
  }

  /// body(first, last, task) for each of so many shares of [0, count), cut at multiples of `step`.
  template <typename Body>
  void for_shares(std::int64_t tasks, std::int64_t count, std::int64_t step, Body&& body) const {
    const std::int64_t steps = ceil_div(count, step);
    for_each(tasks, [&](std::int64_t task) {
      body(task * steps / tasks * step, std::min((task + 1) * steps / tasks * step, count), task);
    });
  }

  /// body(first, last) for all of [0, count), cut at multiples of `step`. In parallel where it is
  /// worth the region: each costs so many elements read or written.
  template <typename Body>
  void for_ranges(std::int64_t count, std::int64_t step, std::int64_t elements, Body&& body) const {
    constexpr std::int64_t kWorthwhile = 1 << 14;
    const std::int64_t tasks =
        count * elements < kWorthwhile ? 1 : std::min<std::int64_t>(threads, ceil_div(count, step));
    for_shares(tasks, count, step,
               [&](std::int64_t first, std::int64_t last, std::int64_t) { body(first, last); });
  }
};
using Run = RunOf<float>;

/// From a pixel of scratch memory to the next, for pixels of so many elements. Where lines an even
/// number apart share banks of the second cache, pixels are an odd number of lines: a depthwise
/// tile goes through its columns one vector at a time. On an Emerald Rapids loads of lines 1, 3 or
/// 5 apart take 1.3 to 1.4 cycles, 2 apart 2.4, 4 apart 3.5; stores 4, 5 and 6, of lines 16 or 60
/// apart 13 to 15, of vectors that cross lines 6. The depthwise rows of 56 x 56 x 72 took 46 us and
/// take 40, of 28 x 28 x 240 with stride 2 17 and 12.
template <typename T>
std::int64_t scratch_stride(const Caches& caches, std::int64_t elements) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  if (!caches.banked_l2) return elements;
  const std::int64_t lines = (elements + kLine - 1) / kLine;
  return (lines % 2 == 0 ? lines + 1 : lines) * kLine;
}

/// Results of at least so many elements, 16 MB, are not in a cache any more when somebody reads
/// them.
constexpr std::int64_t kStreamedElements = 1 << 22;
/// The same for a depthwise convolution, whose stores wait for the lines that they overwrite: one
/// that is fetched for that costs as much as one that is read again later.
constexpr std::int64_t kStreamedDepthwise = kStreamedElements / 4;

/// run() with what is given; `output` gives the memory for the result.
template <typename T>
void run_with(const RunOf<T>& run, const std::string& op, const TensorViewOf<T>& x, Packed records,
              const std::function<T*(const Shape&)>& output);

/// x of any layout; y dense NHWC. All images of x.
template <typename T>
void run_conv2d(const RunOf<T>& run, const Record& record, const TensorViewOf<T>& x, T* y);

/// The input of a block whose channels need not lie together: channel c of pixel p is at
/// x + p * pixel_stride + (offsets ? offsets[c] : c).
template <typename T>
struct Pixels {
  const T* x;
  std::int64_t pixel_stride;
  const std::int64_t* offsets = nullptr;  ///< only where the block begins with an expansion
};

/// The rest: x and y dense NHWC. `shape` is one image's, its n is ignored.
///
/// `y_stride`: of a block with a projection, from one pixel of y to the next where y is not dense;
/// the room between two pixels, up to a multiple of kHalfBlock channels, is written to as well.
template <typename T>
void run_separable(const RunOf<T>& run, const Record& record, const Pixels<T>& x,
                   const Shape& shape, T* y, std::int64_t y_stride = 0);
/// The block as plan_separable() wants it, for an input x and the output that record_output()
/// gives.
template <typename T>
SeparableProblem separable_problem(const RunOf<T>& run, const Record& record, const Shape& x,
                                   const Shape& out);
/// Whether the result y of a call of these records goes past the caches: a depthwise convolution,
/// all that there is, writes it, and none would hold it until somebody reads it.
bool goes_past_caches(const std::vector<Record>& records, const Shape& y);
template <typename T>
void run_squeeze_excite(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                        T* y);
template <typename T>
void run_pointwise(const RunOf<T>& run, const Record& record, const Pixels<T>& x,
                   std::int64_t pixels, T* y);
template <typename T>
void run_global_pool(const RunOf<T>& run, const T* x, const Shape& shape, T* y);
template <typename T>
void run_max_pool(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape, T* y);
/// How run_conv2d_max_pool() would do it, if at all, for an input x of the convolution.
template <typename T>
PooledPlan plan_pooled(const RunOf<T>& run, const Record& conv, const Record& pool, const Shape& x);
/// A convolution and the max pooling after it, by a plan that fuses them; as run_conv2d() else.
template <typename T>
void run_conv2d_max_pool(const RunOf<T>& run, const Record& conv, const Record& pool,
                         const TensorViewOf<T>& x, const PooledPlan& plan, T* y);
/// `count` consecutive units of ShuffleNetV2 at once; all but the first without a shortcut.
template <typename T>
void run_shuffle_units(const RunOf<T>& run, const Record* units, std::size_t count, const T* x,
                       const Shape& shape, T* y);
template <typename T>
void run_shuffle_unit_v1(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                         T* y);
/// y = channel_shuffle(x), `images` of them.
template <typename T>
void run_channel_shuffle(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                         T* y);

/// A product of m pixels of k inputs with packed weights, into n outputs each: no more than that.
template <typename T>
PointwiseArgsOf<T> product_args(const T* x, std::int64_t x_stride, const T* w, const T* bias, T* y,
                                std::int64_t y_stride, std::int64_t m, std::int64_t k,
                                std::int64_t n) {
  PointwiseArgsOf<T> a{};
  a.x = x;
  a.x_stride = x_stride;
  a.w = w;
  a.w_block_stride = k * kBlock;
  a.bias = bias;
  a.y = y;
  a.y_stride = y_stride;
  a.y_width = a.m_block = std::max<std::int64_t>(m, 1);
  a.m = m;
  a.k = k;
  a.n = n;
  return a;
}

/// A product of all its pixels, split over threads; m_block and scratch are filled in here.
template <typename T>
void run_product(const RunOf<T>& run, PointwiseArgsOf<T> args);

/// scale[c] = gate(W2 act(W1 mean + b1) + b2), where mean[c] is the sum over `rows` rows of sums
/// (each of round_up(c, 16) elements, added in order) divided by `pixels`.
template <typename T>
void squeeze_excite_scale(const RunOf<T>& run, const Record& record, const float* sums,
                          std::int64_t rows, std::int64_t pixels, T* scale);

/// From a pixel to the next, where pixels with their channels side by side follow each other at one
/// distance through all images: NHWC, or some channels of it. Else 0.
template <typename T>
std::int64_t pixel_stride(const TensorViewOf<T>& x);

/// Dense NHWC images.
template <typename T>
TensorViewOf<T> nhwc_view(const T* data, const Shape& s) {
  return {data, s.n, s.c, s.h, s.w, s.h * s.w * s.c, 1, s.w * s.c, s.c};
}

/// The tensor as dense NHWC: its own memory if it is that, else a copy in `scope`.
template <typename T>
const T* nhwc_data(const RunOf<T>& run, const TensorViewOf<T>& x, Workspace::Scope& scope);

}  // namespace weebill
