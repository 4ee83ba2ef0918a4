// Gradients of a depthwise convolution by its input, weight and bias.
//
// The work is cut into groups of rows of x, of whole images where there are enough of them, and
// chunks of channels: all of them, if the rows of dy under a window fit the second cache, for
// memory is read and written fastest in its own order. A task goes through its rows of x one by
// one. The kernel makes a row of dx and adds to the weight's gradient what that row of x gives;
// both take the same rows of dy: those in memory, or a ring of rows that are made here. So x and dy
// are read from memory once and dx is written once, past the caches if none would hold it until it
// is read.
//
// Rows of dy were copied to scratch with zeros around them once. An Emerald Rapids takes 13 % less
// without (twelve convolutions of MobileNetV3-Large, 32 images): copying waits for memory while
// nothing is computed, and the kernel then does so for x and dx.
//
// Sums over images are made per group, then over the groups in order. Groups and chunks follow from
// the shapes and the cache alone: the result is the same, bit for bit, for any number of threads.
#include <algorithm>

#include "core/record.h"
#include "core/status.h"
#include "core/training.h"

namespace weebill {
namespace {

using TunedKernel = void (*)(const DepthwiseGradArgs&);

// None for a window that has no kernel of its own.
TunedKernel tuned_kernel(const KernelTable& k, const Window& w) {
  if (!has_depthwise_tiles(w)) return nullptr;
  if (w.kernel_w == 3) {
    return w.stride_w == 1 ? k.depthwise_backward_k3s1_f32 : k.depthwise_backward_k3s2_f32;
  }
  return w.stride_w == 1 ? k.depthwise_backward_k5s1_f32 : k.depthwise_backward_k5s2_f32;
}

// Rows of an image's dy. Those that are made stay as long as a window meets them.
class GradientRows {
 public:
  GradientRows(const Run& run, const PixelSource& source, const Shape& dy, std::int64_t rows,
               std::int64_t channels, Workspace::Scope& scope)
      : run_(run),
        source_(source),
        dy_(dy),
        rows_(rows),
        channels_(channels),
        made_(source.is_made()),
        // Pixels begin on a line; rows an odd number of lines apart do not share few sets of the
        // cache.
        stride_(made_ ? round_up(channels, kBlock) : dy.c),
        row_((dy.w * stride_ / kBlock | 1) * kBlock),
        ring_(scope.take(made_ ? row_ * rows : 0)) {}

  std::int64_t stride() const { return stride_; }

  /// Rows of this image are asked for in order from now on, none before `first`.
  void begin(std::int64_t image, std::int64_t channel, std::int64_t first) {
    image_ = image;
    channel_ = channel;
    next_ = first;
  }

  /// Pixel 0 of row r; r is at most `rows` - 1 before the last that was asked for.
  const float* row(std::int64_t r) {
    const std::int64_t at = (image_ * dy_.h + r) * dy_.w;
    if (!made_) return source_.fetch(run_, at, dy_.w, channel_, channels_, nullptr).data;
    for (; next_ <= r; ++next_) make(next_);
    return ring_ + r % rows_ * row_;
  }

 private:
  void make(std::int64_t r) const {
    source_.make(run_, (image_ * dy_.h + r) * dy_.w, dy_.w, channel_, channels_,
                 ring_ + r % rows_ * row_, stride_, kBlock);
  }

  const Run& run_;
  const PixelSource& source_;
  const Shape dy_;
  const std::int64_t rows_, channels_;
  const bool made_;
  const std::int64_t stride_, row_;
  float* ring_;
  std::int64_t image_ = 0, channel_ = 0, next_ = 0;
};

class DepthwiseBackward {
 public:
  DepthwiseBackward(const Run& run, const Window& window, const Shape& x, const Shape& y,
                    const ConvolutionGradients& wanted, bool wants_sums)
      : run_(run),
        w_(window),
        x_(x),
        y_(y),
        wanted_(wanted),
        tuned_(tuned_kernel(run.kernels, window)),
        taps_(std::int64_t{window.kernel_h} * window.kernel_w),
        blocks_(ceil_div(x.c, kBlock)),
        window_rows_(std::int64_t{w_.kernel_h - 1} * w_.dilation_h / w_.stride_h + 1) {
    plan(wants_sums);
  }

  void operator()(const PixelSource& x, const PixelSource& dy, const float* weight,
                  const InputNormalization& before) {
    Workspace::Scope scope(Workspace::of_this_thread());
    const InputSums sums(before, groups_, x_.c, scope);
    const std::int64_t packed = blocks_ * taps_ * kBlock;
    float* packed_weight = scope.take(packed);
    pack_taps(weight, x_.c, taps_, packed_weight);
    float* weight_sums = scope.take(groups_ * packed);
    float* bias_sums = wanted_.bias != nullptr ? scope.take(groups_ * x_.c) : nullptr;
    const std::int64_t chunks = ceil_div(x_.c, chunk_);
    run_.for_each(groups_ * chunks, [&](std::int64_t task) {
      const std::int64_t group = task / chunks, channel = task % chunks * chunk_;
      const std::int64_t channels = std::min(chunk_, x_.c - channel);
      float* dw = weight_sums + group * packed + channel * taps_;
      std::fill(dw, dw + round_up(channels, kBlock) * taps_, 0.0f);
      if (bias_sums != nullptr) {
        bias_part(dy, group, channel, channels, bias_sums + group * x_.c + channel);
      }
      if (wanted_.input == nullptr && wanted_.weight == nullptr) return;
      sums.begin(group, channel, channels);
      part(x, dy, packed_weight + channel * taps_, group, channel, channels, dw,
           before.sums != nullptr && wanted_.input != nullptr ? &sums : nullptr);
      sums.end(group, channel, channels);
    });
    sums.finish();
    if (wanted_.weight != nullptr) {
      run_.for_each(blocks_, [&](std::int64_t block) { add_weights(weight_sums, packed, block); });
    }
    if (bias_sums != nullptr) {
      for (std::int64_t c = 0; c < x_.c; ++c) {
        float sum = 0;
        for (std::int64_t g = 0; g < groups_; ++g) sum += bias_sums[g * x_.c + c];
        wanted_.bias[c] = sum;
      }
    }
  }

 private:
  void plan(bool wants_sums) {
    constexpr std::int64_t kTasks = 32, kEnoughImages = 8;
    const auto floats = [](std::int64_t bytes) {
      return bytes / static_cast<std::int64_t>(sizeof(float));
    };
    // Beside those of dy there are rows of x and dx.
    const std::int64_t l2 = floats(run_.caches.l2_bytes) / 2;
    const std::int64_t per_channel = window_rows_ * y_.w + 2 * x_.w;
    chunk_ = round_up(x_.c, kBlock);
    for (std::int64_t chunks = 2; chunk_ > kBlock && per_channel * chunk_ > l2; ++chunks) {
      chunk_ = round_up(ceil_div(x_.c, chunks), kBlock);
    }
    // Taps, their sums, and the pixels of dy under a tile stay in the first cache.
    const std::int64_t l1 = floats(run_.caches.l1d_bytes) * 3 / 4;
    const auto share = [&](std::int64_t each) {
      const std::int64_t most = std::max(kBlock, l1 / each / kBlock * kBlock);
      return round_up(ceil_div(chunk_, ceil_div(chunk_, most)), kBlock);
    };
    at_once_ = share(2 * taps_ + w_.kernel_h * (w_.kernel_w + 3));
    // Or the rows of a window stay there, for some channels of a whole image.
    of_image_ = share(2 * taps_ + window_rows_ * y_.w + x_.w);
    // Lines of two vectors want all channels: worth a third of the taps in the second cache.
    elements_ = x_.n * x_.h * x_.w * x_.c;
    const bool by_lines =
        streams() && !wants_sums && chunk_ >= x_.c && x_.c <= 2 * at_once_ && fits_lines();
    if (by_lines) at_once_ = of_image_ = chunk_;
    const std::int64_t units = x_.n >= kEnoughImages ? x_.n : x_.n * x_.h;
    groups_ = std::clamp<std::int64_t>(kTasks / ceil_div(x_.c, chunk_), 1, units);
    // Each group has sums of all taps, through memory twice; channels can be shared out too.
    constexpr std::int64_t kFew = 8, kPixelsPerTap = 32;
    const std::int64_t worth = x_.n * x_.h * x_.w / (kPixelsPerTap * taps_);
    while (groups_ > kFew && groups_ > worth) groups_ /= 2;
    const std::int64_t tasks = std::min<std::int64_t>(kTasks, 4 * run_.threads);
    const std::int64_t chunks = tasks / groups_;
    if (!by_lines && chunks > ceil_div(x_.c, chunk_)) {
      chunk_ = round_up(ceil_div(x_.c, chunks), kBlock);
      at_once_ = std::min(at_once_, chunk_);
      of_image_ = std::min(of_image_, chunk_);
    }
    unit_rows_ = x_.n * x_.h / units;
  }

  // The group's part of all pixels of dy.
  void bias_part(const PixelSource& dy, std::int64_t group, std::int64_t channel,
                 std::int64_t channels, float* db) const {
    const std::int64_t pixels = y_.n * y_.h * y_.w, first = group * pixels / groups_;
    const std::int64_t count = (group + 1) * pixels / groups_ - first;
    std::fill(db, db + channels, 0.0f);
    const PixelSource::View all = dy.fetch(run_, first, count, channel, channels, nullptr);
    run_.kernels.sum_f32({all.data, all.stride, db, count, channels});
  }

  // A block of channels of the weight's gradient: its groups' sums.
  void add_weights(float* weight_sums, std::int64_t packed, std::int64_t block) const {
    const std::int64_t size = taps_ * kBlock, first = block * kBlock;
    float* sum = weight_sums + block * size;
    for (std::int64_t g = 1; g < groups_; ++g) {
      const float* more = sum + g * packed;
      for (std::int64_t i = 0; i < size; ++i) sum[i] += more[i];
    }
    for (std::int64_t c = first; c < std::min(first + kBlock, x_.c); ++c) {
      for (std::int64_t t = 0; t < taps_; ++t) {
        wanted_.weight[c * taps_ + t] = sum[t * kBlock + c - first];
      }
    }
  }

  // Rows of x of one group, for channels [channel, channel + channels); `sums` if there are any.
  void part(const PixelSource& x, const PixelSource& dy, const float* packed_weight,
            std::int64_t group, std::int64_t channel, std::int64_t channels, float* dw,
            const InputSums* sums) const {
    Workspace::Scope scope(Workspace::of_this_thread());
    GradientRows rows(run_, dy, y_, window_rows_, channels, scope);
    const float** row_at = scope.take<const float*>(w_.kernel_h);
    const bool far =
        elements_ >= (run_.caches.foresees_tiles ? kStreamedDepthwise : kStreamedElements);
    // What is not wanted: x without a gradient by the weight, dx; and a dx that is read again.
    const float* no_x = wanted_.weight == nullptr ? scope.zeros(channels) : nullptr;
    float* scratch_x = x.is_made() && no_x == nullptr ? scope.take(x_.w * channels) : nullptr;
    const bool keeps = sums != nullptr && streams();
    float* scratch_dx = nullptr;
    if (wanted_.input == nullptr || keeps) scratch_dx = scope.take(x_.w * channels);
    DepthwiseGradArgs a{};
    a.dy_rows = row_at;
    a.dy_stride = rows.stride();
    a.dy_columns = y_.w;
    a.w = packed_weight;
    a.dw = dw;
    a.first = w_.pad_left;
    a.columns = x_.w;
    a.channels = channels;
    a.dx_stride = scratch_dx == nullptr ? x_.c : wanted_.input == nullptr ? 0 : channels;
    a.stream = streams() && scratch_dx == nullptr;
    const std::int64_t units = x_.n * x_.h / unit_rows_;
    const std::int64_t first = group * units / groups_ * unit_rows_;
    const std::int64_t last = (group + 1) * units / groups_ * unit_rows_;
    const auto go_to = [&](std::int64_t row) {
      const std::int64_t iy = row % x_.h, pixel = row * x_.w;
      if (row == first || iy == 0) rows.begin(row / x_.h, channel, first_output_row(iy));
      window(iy, rows, row_at, a);
      PixelSource::View from = {no_x, 0};
      if (no_x == nullptr) from = x.fetch(run_, pixel, x_.w, channel, channels, scratch_x);
      a.x = from.data;
      a.x_stride = from.stride;
      float* dx = wanted_.input == nullptr ? nullptr : wanted_.input + pixel * x_.c + channel;
      a.dx = scratch_dx != nullptr ? scratch_dx : dx;
      if (far && row + 1 < last) a.ahead = ahead_of(row + 1, x, dy, channel, channels);
      return dx;
    };
    // Rows that are there can be gone through again: 960 x 7 x 7, 5 x 5, takes 0.57 ms so and 0.68
    // row by row, 480 x 14 x 14 0.74 and 0.83 (32 images, two cores of an Emerald Rapids).
    const bool by_images = !x.is_made() && !dy.is_made() && sums == nullptr && images_pay();
    for (std::int64_t row = first; row < last;) {
      if (by_images) {
        const std::int64_t end = std::min((row / x_.h + 1) * x_.h, last);
        for (std::int64_t c = 0; c < channels; c += of_image_) {
          for (std::int64_t r = row; r < end; ++r) {
            go_to(r);
            gradients(a, c, std::min(c + of_image_, channels));
          }
        }
        row = end;
        continue;
      }
      float* dx = go_to(row);
      for (std::int64_t c = 0; c < channels; c += at_once_) {
        gradients(a, c, std::min(c + at_once_, channels));
      }
      if (sums != nullptr) {
        sums->add(run_, group, channel, channels, row * x_.w, x_.w, a.dx, a.dx_stride);
      }
      if (keeps && dx != nullptr) {
        run_.kernels.copy_f32({a.dx, channels, dx, x_.c, x_.w, channels, /*stream=*/true});
      }
      ++row;
    }
    if (streams()) publish_streams();
  }

  // Whether the second cache holds an image of x and of dy, and the first enough channels of rows;
  // measured on Intel's alone.
  bool images_pay() const {
    constexpr std::int64_t kEnough = 64;
    if (of_image_ < std::min(chunk_, kEnough) || !run_.caches.foresees_tiles) return false;
    const std::int64_t elements = x_.c * (x_.h * x_.w + y_.h * y_.w);
    return elements * static_cast<std::int64_t>(sizeof(float)) <= run_.caches.l2_bytes * 3 / 4;
  }

  // No cache would hold dx until it is read.
  bool streams() const { return elements_ >= kStreamedDepthwise; }

  // Whether dx can go past the caches if a kernel makes all channels of a row at once.
  bool fits_lines() const {
    return tuned_ != nullptr && wanted_.input != nullptr && x_.w % 2 == 0 &&
           x_.c % kBlock == kHalfBlock;
  }

  // The first row of dy that a window over row iy of x belongs to.
  std::int64_t first_output_row(std::int64_t iy) const {
    const std::int64_t reach = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    return std::max<std::int64_t>(0, ceil_div(iy + w_.pad_top - reach, w_.stride_h));
  }

  // The rows of dy for row iy of x, and those of the window that they meet, from the last on: the
  // order of rows in memory.
  void window(std::int64_t iy, GradientRows& rows, const float** row_at,
              DepthwiseGradArgs& a) const {
    std::int64_t previous = 0;
    a.rows = 0;
    a.row_step = -1;
    for (std::int64_t u = w_.kernel_h - 1; u >= 0; --u) {
      const std::int64_t at = iy + w_.pad_top - u * w_.dilation_h;
      if (at < 0 || at % w_.stride_h != 0 || at / w_.stride_h >= y_.h) continue;
      if (a.rows == 0) a.first_row = u;
      if (a.rows == 1) a.row_step = u - previous;  // and so for all that follow
      previous = u;
      row_at[a.rows++] = rows.row(at / w_.stride_h);
    }
  }

  // What row `row` of x is the first to read from memory. An Emerald Rapids foresees what comes
  // from its last cache, where asking for it costs 4 %; but x was last read in the forward, and
  // from memory it gains 15 %.
  RowsAhead ahead_of(std::int64_t row, const PixelSource& x, const PixelSource& dy,
                     std::int64_t channel, std::int64_t channels) const {
    RowsAhead ahead = {nullptr, nullptr, x_.c};
    if (!x.is_made() && wanted_.weight != nullptr) {
      ahead.x = x.fetch(run_, row * x_.w, x_.w, channel, channels, nullptr).data;
    }
    const std::int64_t at = row % x_.h + w_.pad_top;
    if (!dy.is_made() && at % w_.stride_h == 0 && at / w_.stride_h < y_.h) {
      const std::int64_t pixel = (row / x_.h * y_.h + at / w_.stride_h) * y_.w;
      ahead.dy = dy.fetch(run_, pixel, y_.w, channel, channels, nullptr).data;
    }
    return ahead;
  }

  // Channels [from, to) of a row.
  void gradients(DepthwiseGradArgs& a, std::int64_t from, std::int64_t to) const {
    a.first_channel = from;
    a.channels = to;
    if (tuned_ != nullptr) {
      tuned_(a);
    } else {
      run_.kernels.depthwise_backward_any_f32(
          {a, w_.kernel_h, w_.kernel_w, w_.stride_w, w_.dilation_w});
    }
  }

  const Run& run_;
  const Window w_;
  const Shape x_, y_;
  const ConvolutionGradients wanted_;
  const TunedKernel tuned_;
  const std::int64_t taps_, blocks_;
  const std::int64_t window_rows_;  // of dy that a row of x meets
  // Channels of a task, and of a kernel's call: row by row, and image by image.
  std::int64_t chunk_ = 0, at_once_ = 0, of_image_ = 0;
  std::int64_t groups_ = 0, unit_rows_ = 0;
  std::int64_t elements_ = 0;  // of x
};

}  // namespace

void run_depthwise_backward(const Run& run, const Window& window, const Shape& x, const Shape& y,
                            const PixelSource& from, const PixelSource& dy, const float* weight,
                            const ConvolutionGradients& wanted, const InputNormalization& before) {
  DepthwiseBackward(run, window, x, y, wanted, before.sums != nullptr)(from, dy, weight, before);
}

void depthwise_conv2d_backward(const TensorView& dy, const TensorView& x, const Weight& weight,
                               Window window, const ConvolutionGradients& wanted) {
  static const std::string op = "depthwise_conv2d_backward";
  check(weight.shape.size() == 4 && weight.shape[1] == 1 && x.c >= 1, op,
        ": weight must be (c, 1, kh, kw) for x with ", x.c, " channels");
  if (weight.shape[0] != x.c && weight.shape[0] % x.c == 0) {
    throw NotSupported(concat(op, ": weight must have one filter per channel, got ",
                              weight.shape[0], " for ", x.c, " channels"));
  }
  // The forward's checks, and its output.
  Conv2dSpec spec;
  spec.op = op;
  spec.weight = weight;
  spec.window = window;
  spec.groups = x.c;
  const Shape shape = {x.n, x.c, x.h, x.w};
  const Shape out = conv2d_output(spec, shape);
  check(dy.n == out.n && dy.c == out.c && dy.h == out.h && dy.w == out.w, op,
        ": grad_output must be (", out.n, ", ", out.c, ", ", out.h, ", ", out.w, "), got (", dy.n,
        ", ", dy.c, ", ", dy.h, ", ", dy.w, ")");
  const std::int64_t taps = weight.shape[2] * weight.shape[3];
  if (x.n == 0) {
    if (wanted.weight != nullptr) std::fill_n(wanted.weight, x.c * taps, 0.0f);
    if (wanted.bias != nullptr) std::fill_n(wanted.bias, x.c, 0.0f);
    return;
  }
  window.kernel_h = static_cast<std::int32_t>(weight.shape[2]);
  window.kernel_w = static_cast<std::int32_t>(weight.shape[3]);
  const Run whole = {kernels(), machine_caches(), max_threads()};
  const int threads = plan_threads(out.n * out.h * out.w * out.c * taps, whole.threads);
  const Run run = {whole.kernels, whole.caches, threads};
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* dense_x = wanted.weight != nullptr ? nhwc_data(run, x, scope) : nullptr;
  run_depthwise_backward(run, resolve(window, x.h, x.w), shape, out, PixelSource(dense_x, x.c),
                         PixelSource(nhwc_data(run, dy, scope), x.c), weight.data, wanted, {});
}

}  // namespace weebill
