// Gradients of a depthwise convolution by its input, weight and bias.
//
// The work is cut into groups of images and chunks of channels: all of them, if a few rows fit the
// second cache, for memory is read and written fastest in its own order. A task goes through its
// images in strips of output rows: it copies the strip's pixels of x and dy, for its channels, into
// padded scratch (blocked_rows.h) that stays in the second cache, and from there computes the
// strip's part of all that is asked for. So both are fetched from memory once: rows that the next
// strip needs too are moved inside the scratch. Rows of dx are made in scratch as well and written
// at once; a dx that no cache would hold until it is read goes past the caches. All that is read
// and written is so a stream; kernels of 16 lanes fetch the next strip's part of it to the second
// cache, a few lines per tile, so that memory does not rest during their arithmetic.
//
// Sums over images are made per group, then over the groups in order. Groups and chunks follow from
// the shapes and the cache alone: the result is the same, bit for bit, for any number of threads.
#include <algorithm>

#include "core/blocked_rows.h"
#include "core/status.h"

namespace weebill {
namespace {

struct Kernels {
  void (*input)(const DepthwiseInputGradArgs&) = nullptr;
  void (*weight)(const DepthwiseWeightGradArgs&) = nullptr;
};

// None for a window that has no kernel of its own.
Kernels tuned_kernels(const KernelTable& k, const Window& w) {
  if (!has_depthwise_tiles(w)) return {};
  if (w.kernel_w == 3 && w.stride_w == 1) {
    return {k.depthwise_backward_input_k3s1_f32, k.depthwise_backward_weight_k3s1_f32};
  }
  if (w.kernel_w == 3 && w.stride_w == 2) {
    return {k.depthwise_backward_input_k3s2_f32, k.depthwise_backward_weight_k3s2_f32};
  }
  if (w.kernel_w == 5 && w.stride_w == 1) {
    return {k.depthwise_backward_input_k5s1_f32, k.depthwise_backward_weight_k5s1_f32};
  }
  return {k.depthwise_backward_input_k5s2_f32, k.depthwise_backward_weight_k5s2_f32};
}

// Memory that the next strip reads, handed out to the kernels of this one.
class StripAhead {
 public:
  void add(const float* at, std::int64_t elements) {
    if (elements > 0) ranges_[count_++] = {at, elements};
  }

  /// Over kernels that go through so many columns of blocks, in all.
  void share(std::int64_t columns) {
    std::int64_t elements = 0;
    for (int i = 0; i < count_; ++i) elements += ranges_[i].elements;
    lines_ = columns > 0 ? ceil_div(elements, columns) : 0;
  }

  /// For the next of them, of `columns` columns, each `parts` times as quick as those shared.
  Ahead take(std::int64_t columns, std::int64_t parts = 1) {
    if (at_ == count_) return {nullptr, 0};
    Range& range = ranges_[at_];
    const Ahead ahead = {range.at, ceil_div(lines_, parts)};
    const std::int64_t taken = columns * ahead.lines / kBlock * kBlock;
    range.at += taken;
    range.elements -= taken;
    if (range.elements <= 0) ++at_;
    return ahead;
  }

 private:
  struct Range {
    const float* at;
    std::int64_t elements;
  };
  Range ranges_[4] = {};
  int count_ = 0, at_ = 0;
  std::int64_t lines_ = 0;  // per kBlock columns
};

class DepthwiseBackward {
 public:
  DepthwiseBackward(const Run& run, const Window& window, const Shape& x, const Shape& y,
                    const ConvolutionGradients& wanted)
      : run_(run),
        w_(window),
        x_(x),
        y_(y),
        wanted_(wanted),
        tuned_(tuned_kernels(run.kernels, window)),
        taps_(std::int64_t{window.kernel_h} * window.kernel_w),
        blocks_(ceil_div(x.c, kBlock)) {
    x_columns_ = (y.w - 1) * w_.stride_w + std::int64_t{w_.kernel_w - 1} * w_.dilation_w + 1;
    if (tuned_.input != nullptr) {
      left_ = std::max<std::int64_t>(0, -floor_div(w_.pad_left - w_.kernel_w + 1, w_.stride_w));
      right_ = std::max<std::int64_t>(0, (w_.pad_left + x.w - 1) / w_.stride_w - (y.w - 1));
    }
    dy_columns_ = left_ + y.w + right_;
    plan();
  }

  void operator()(const PixelSource& x, const PixelSource& dy, const float* weight,
                  const InputNormalization& before) {
    Workspace::Scope scope(Workspace::of_this_thread());
    const InputSums sums(before, groups_, x_.c, scope);
    const std::int64_t packed = blocks_ * taps_ * kBlock;
    float* packed_weight = scope.take(packed);
    if (wanted_.input != nullptr) pack_taps(weight, x_.c, taps_, packed_weight);
    float* weight_sums = wanted_.weight != nullptr ? scope.take(groups_ * packed) : nullptr;
    float* bias_sums = wanted_.bias != nullptr ? scope.take(groups_ * x_.c) : nullptr;
    const std::int64_t chunks = ceil_div(x_.c, chunk_);
    run_.for_each(groups_ * chunks, [&](std::int64_t task) {
      const std::int64_t group = task / chunks, channel = task % chunks * chunk_;
      const std::int64_t channels = std::min(chunk_, x_.c - channel);
      float* dw = nullptr;
      if (weight_sums != nullptr) {
        dw = weight_sums + group * packed + channel * taps_;
        std::fill(dw, dw + round_up(channels, kBlock) * taps_, 0.0f);
      }
      float* db = nullptr;
      if (bias_sums != nullptr) {
        db = bias_sums + group * x_.c + channel;
        std::fill(db, db + channels, 0.0f);
      }
      sums.begin(group, channel, channels);
      part(x, dy, packed_weight, group, channel, channels, dw, db, sums);
      sums.end(group, channel, channels);
    });
    sums.finish();
    if (weight_sums != nullptr) {
      run_.for_each(blocks_, [&](std::int64_t block) {
        const std::int64_t size = taps_ * kBlock;
        float* sum = weight_sums + block * size;
        for (std::int64_t g = 1; g < groups_; ++g) {
          const float* more = sum + g * packed;
          for (std::int64_t i = 0; i < size; ++i) sum[i] += more[i];
        }
        const std::int64_t first = block * kBlock;
        for (std::int64_t c = first; c < std::min(first + kBlock, x_.c); ++c) {
          for (std::int64_t t = 0; t < taps_; ++t) {
            wanted_.weight[c * taps_ + t] = sum[t * kBlock + c - first];
          }
        }
      });
    }
    if (bias_sums != nullptr) {
      for (std::int64_t c = 0; c < x_.c; ++c) wanted_.bias[c] = total(bias_sums + c, x_.c);
    }
  }

 private:
  float total(const float* sums, std::int64_t stride) const {
    float sum = 0;
    for (std::int64_t g = 0; g < groups_; ++g) sum += sums[g * stride];
    return sum;
  }

  // As few chunks as let some rows fit the second cache beside what passes through, then as many
  // rows as leave room for the next strip.
  void plan() {
    constexpr std::int64_t kFewRows = 2, kTasks = 32;
    const std::int64_t l2 = run_.caches.l2_bytes / static_cast<std::int64_t>(sizeof(float));
    const std::int64_t most = l2 * 5 / 8, budget = l2 * 5 / 16;
    const std::int64_t halo = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    const std::int64_t per_row = w_.stride_h * x_columns_ + dy_columns_;
    const std::int64_t around = halo * x_columns_ + halo / w_.stride_h * dy_columns_ + x_.w;
    const std::int64_t few = std::min(y_.h, kFewRows);
    std::int64_t chunks = 1;
    chunk_ = round_up(x_.c, kBlock);
    while (chunk_ > kBlock && (per_row * few + around) * chunk_ > most) {
      chunk_ = round_up(ceil_div(x_.c, ++chunks), kBlock);
    }
    const std::int64_t rows = std::max((budget / chunk_ - around) / per_row, few);
    strip_ = ceil_div(y_.h, ceil_div(y_.h, std::min(rows, y_.h)));
    groups_ = std::clamp<std::int64_t>(kTasks / ceil_div(x_.c, chunk_), 1, x_.n);
  }

  std::int64_t scratch_rows_x(std::int64_t rows) const {
    return (rows - 1) * w_.stride_h + std::int64_t{w_.kernel_h - 1} * w_.dilation_h + 1;
  }

  // Rows of dx that a strip of output rows takes care of.
  RowRange input_rows(const RowRange& strip) const {
    const std::int64_t first = strip.first * w_.stride_h;
    const std::int64_t last = strip.last == y_.h ? x_.h : strip.last * w_.stride_h;
    return {std::min(first, x_.h), std::min(last, x_.h)};
  }

  // Rows of dy that these and the strip itself need.
  RowRange output_rows(const RowRange& strip, const RowRange& input) const {
    RowRange rows = strip;
    if (wanted_.input == nullptr || input.first >= input.last) return rows;
    const std::int64_t reach = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    rows.first = std::min(
        rows.first,
        std::max<std::int64_t>(0, ceil_div(input.first + w_.pad_top - reach, w_.stride_h)));
    rows.last =
        std::max(rows.last, std::min(y_.h, (input.last - 1 + w_.pad_top) / w_.stride_h + 1));
    return rows;
  }

  void part(const PixelSource& x, const PixelSource& dy, const float* packed_weight,
            std::int64_t group, std::int64_t channel, std::int64_t channels, float* dw, float* db,
            const InputSums& sums) const {
    Workspace::Scope scope(Workspace::of_this_thread());
    const std::int64_t most_dy =
        std::min(y_.h, strip_ + 2 + std::int64_t{w_.kernel_h} * w_.dilation_h / w_.stride_h);
    const std::int64_t most_x = dw == nullptr ? 0 : scratch_rows_x(strip_);
    BlockedRows x_rows(run_, x, {x_.h, x_.w, w_.pad_left, x_columns_, most_x, channels}, scope);
    BlockedRows dy_rows(run_, dy, {y_.h, y_.w, left_, dy_columns_, most_dy, channels}, scope);
    float* dx_row = wanted_.input == nullptr ? nullptr : scope.take(x_.w * channels);
    const float** row_at = scope.take<const float*>(w_.kernel_h);
    const std::int64_t last_image = (group + 1) * x_.n / groups_;
    for (std::int64_t n = group * x_.n / groups_; n < last_image; ++n) {
      if (db != nullptr) {
        const PixelSource::View all =
            dy.fetch(run_, n * y_.h * y_.w, y_.h * y_.w, channel, channels, nullptr);
        run_.kernels.sum_f32({all.data, all.stride, db, y_.h * y_.w, channels});
      }
      if (dw == nullptr && wanted_.input == nullptr) continue;
      x_rows.begin(n, channel);
      dy_rows.begin(n, channel);
      for (std::int64_t first = 0; first < y_.h; first += strip_) {
        const RowRange strip = {first, std::min(first + strip_, y_.h)};
        const RowRange input = input_rows(strip);
        const RowRange output = output_rows(strip, input);
        dy_rows.hold(output);
        if (dw != nullptr) x_rows.hold(window_rows(strip));
        const float* dy_at = dy_rows.data() + left_ * kBlock;
        StripAhead ahead = ahead_of(x, dy, n, last_image, strip, channels);
        for (std::int64_t c = 0; c < channels && dw != nullptr; c += kBlock) {
          const std::int64_t block = c / kBlock;
          weight_part(x_rows.data() + block * x_rows.block_stride(),
                      dy_at + block * dy_rows.block_stride() +
                          (strip.first - output.first) * dy_rows.row_stride(),
                      strip.last - strip.first, std::min(kBlock, channels - c), dw + c * taps_,
                      ahead);
        }
        for (std::int64_t iy = input.first; iy < input.last && wanted_.input != nullptr; ++iy) {
          input_row(dy_at, dy_rows.block_stride(), output, iy, packed_weight + channel * taps_,
                    channels, row_at, dx_row, ahead);
          const std::int64_t pixel = (n * x_.h + iy) * x_.w;
          store_row(dx_row, channels, wanted_.input + pixel * x_.c + channel);
          sums.add(run_, group, channel, channels, pixel, x_.w, dx_row, channels);
        }
      }
    }
  }

  // Rows of x under the windows of a strip, with those outside of the image.
  RowRange window_rows(const RowRange& strip) const {
    const std::int64_t top = strip.first * w_.stride_h - w_.pad_top;
    return {top, top + scratch_rows_x(strip.last - strip.first)};
  }

  // Rows that the strip after `strip` of image n does not find in scratch. Only where they are
  // whole: slices of pixels are no range of memory.
  StripAhead ahead_of(const PixelSource& x, const PixelSource& dy, std::int64_t n,
                      std::int64_t last_image, const RowRange& strip, std::int64_t channels) const {
    StripAhead ahead;
    const bool last = strip.last == y_.h;
    if (channels != x_.c || (last && n + 1 == last_image)) return ahead;
    const std::int64_t image = last ? n + 1 : n;
    RowRange next = {0, strip_};
    if (!last) next = {strip.last, std::min(strip.last + strip_, y_.h)};
    RowRange x_rows = window_rows(next), dy_rows = output_rows(next, input_rows(next));
    const RowRange input = input_rows(strip);
    if (!last) {
      x_rows.first = window_rows(strip).last;
      dy_rows.first = output_rows(strip, input).last;
    }
    x_rows = {std::clamp<std::int64_t>(x_rows.first, 0, x_.h),
              std::clamp<std::int64_t>(x_rows.last, 0, x_.h)};
    std::int64_t columns = 0;
    if (wanted_.weight != nullptr) {
      x.add_ranges(ahead, (image * x_.h + x_rows.first) * x_.w,
                   (x_rows.last - x_rows.first) * x_.w);
      columns += (strip.last - strip.first) * y_.w;
    }
    dy.add_ranges(ahead, (image * y_.h + dy_rows.first) * y_.w,
                  (dy_rows.last - dy_rows.first) * y_.w);
    if (wanted_.input != nullptr) {
      columns += (input.last - input.first) * x_.w / (w_.stride_h * w_.stride_w);
    }
    ahead.share(columns * ceil_div(channels, kBlock));
    return ahead;
  }

  // Both on a block of channels.
  void weight_part(const float* x, const float* dy, std::int64_t rows, std::int64_t channels,
                   float* dw, StripAhead& ahead) const {
    DepthwiseWeightGradArgs a{};
    a.x = x;
    a.x_row_step = w_.stride_h * x_columns_ * kBlock;
    a.x_row_stride = w_.dilation_h * x_columns_ * kBlock;
    a.x_stride = kBlock;
    a.dy = dy;
    a.dy_row_stride = dy_columns_ * kBlock;
    a.dy_stride = kBlock;
    a.dw = dw;
    a.rows = rows;
    a.columns = y_.w;
    a.channels = channels;
    a.ahead = ahead.take(a.rows * a.columns);
    if (tuned_.weight != nullptr) {
      tuned_.weight(a);
    } else {
      run_.kernels.depthwise_backward_weight_any_f32(
          {a, w_.kernel_h, w_.kernel_w, w_.stride_w, w_.dilation_w});
    }
  }

  // A row of dx to scratch; `dy` is its block 0.
  void input_row(const float* dy, std::int64_t dy_block, const RowRange& output, std::int64_t iy,
                 const float* packed_weight, std::int64_t channels, const float** row_at,
                 float* dx_row, StripAhead& ahead) const {
    DepthwiseInputGradArgs a{};
    a.dy_rows = row_at;
    a.dy_stride = kBlock;
    a.dx_stride = channels;
    a.first = w_.pad_left;
    a.columns = x_.w;
    a.row_step = 1;
    std::int64_t previous = 0;
    for (std::int64_t u = 0; u < w_.kernel_h; ++u) {
      const std::int64_t at = iy + w_.pad_top - u * w_.dilation_h;
      if (at < 0 || at % w_.stride_h != 0 || at / w_.stride_h >= y_.h) continue;
      if (a.rows == 0) a.first_row = u;
      if (a.rows == 1) a.row_step = u - previous;  // and so for all that follow
      previous = u;
      row_at[a.rows++] = dy + (at / w_.stride_h - output.first) * dy_columns_ * kBlock;
    }
    for (std::int64_t c = 0; c < channels; c += kBlock) {
      a.w = packed_weight + c * taps_;
      a.dx = dx_row + c;
      a.channels = std::min(kBlock, channels - c);
      a.ahead = ahead.take(a.columns, std::int64_t{w_.stride_h} * w_.stride_w);
      if (tuned_.input != nullptr) {
        tuned_.input(a);
      } else {
        run_.kernels.depthwise_backward_input_any_f32(
            {a, w_.kernel_h, w_.kernel_w, w_.stride_w, w_.dilation_w, y_.w});
      }
      for (std::int64_t r = 0; r < a.rows; ++r) row_at[r] += dy_block;
    }
  }

  void store_row(const float* dx_row, std::int64_t channels, float* dx) const {
    const bool stream = x_.n * x_.h * x_.w * x_.c >= kStreamedElements;
    if (channels == x_.c) {  // dense on both sides
      const std::int64_t all = x_.w * x_.c;
      run_.kernels.copy_f32({dx_row, all, dx, all, 1, all, stream});
    } else {
      run_.kernels.copy_f32({dx_row, channels, dx, x_.c, x_.w, channels, stream});
    }
  }

  const Run& run_;
  const Window w_;
  const Shape x_, y_;
  const ConvolutionGradients wanted_;
  const Kernels tuned_;
  const std::int64_t taps_, blocks_;
  std::int64_t x_columns_ = 0;                          // of the padded x
  std::int64_t left_ = 0, right_ = 0, dy_columns_ = 0;  // zeros around dy; all columns
  std::int64_t chunk_ = 0, strip_ = 0, groups_ = 0;
};

}  // namespace

void run_depthwise_backward(const Run& run, const Window& window, const Shape& x, const Shape& y,
                            const PixelSource& from, const PixelSource& dy, const float* weight,
                            const ConvolutionGradients& wanted, const InputNormalization& before) {
  DepthwiseBackward(run, window, x, y, wanted)(from, dy, weight, before);
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
