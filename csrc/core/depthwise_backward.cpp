// Gradients of a depthwise convolution by its input, weight and bias.
//
// The work is cut into groups of images and chunks of channels: all of them, if a few rows fit the
// second cache, for memory is read and written fastest in its own order. A task goes through its
// images in strips of output rows: it copies the strip's pixels of x and dy, for its channels, into
// padded scratch that stays in the second cache, and from there computes the strip's part of all
// that is asked for. So no kernel meets an edge of the image, and both are fetched from memory
// once: rows that the next strip needs too are moved inside the scratch. In scratch a block of 16
// channels is an image of its own, a cache line per pixel: the rows under a window then stay in the
// first cache, which in the image's own layout they would share with channels that are not in turn.
// Rows of dx are made in scratch as well and written at once; a dx that no cache would hold until
// it is read goes past the caches. All that is read and written is so a stream, which the processor
// foresees: prefetching the next strip during a strip's arithmetic was slower.
//
// Sums over images are made per group, then over the groups in order. Groups and chunks follow from
// the shapes and the cache alone: the result is the same, bit for bit, for any number of threads.
#include <algorithm>
#include <cstring>

#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

struct Kernels {
  void (*input)(const DepthwiseInputGradArgs&) = nullptr;
  void (*weight)(const DepthwiseWeightGradArgs&) = nullptr;
};

// None for a window that has no kernel of its own.
Kernels tuned_kernels(const KernelTable& k, const Window& w) {
  if (w.kernel_h != w.kernel_w || w.dilation_w != 1) return {};
  if (w.kernel_w == 3 && w.stride_w == 1) {
    return {k.depthwise_backward_input_k3s1_f32, k.depthwise_backward_weight_k3s1_f32};
  }
  if (w.kernel_w == 3 && w.stride_w == 2) {
    return {k.depthwise_backward_input_k3s2_f32, k.depthwise_backward_weight_k3s2_f32};
  }
  if (w.kernel_w == 5 && w.stride_w == 1) {
    return {k.depthwise_backward_input_k5s1_f32, k.depthwise_backward_weight_k5s1_f32};
  }
  if (w.kernel_w == 5 && w.stride_w == 2) {
    return {k.depthwise_backward_input_k5s2_f32, k.depthwise_backward_weight_k5s2_f32};
  }
  return {};
}

struct Rows {
  std::int64_t first, last;
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

  void operator()(const float* x, const float* dy, const float* weight) {
    Workspace::Scope scope(Workspace::of_this_thread());
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
      part(x, dy, packed_weight, group, channel, channels, dw, db);
    });
    if (weight_sums != nullptr) {
      for (std::int64_t c = 0; c < x_.c; ++c) {
        for (std::int64_t t = 0; t < taps_; ++t) {
          const std::int64_t at = (c / kBlock * taps_ + t) * kBlock + c % kBlock;
          wanted_.weight[c * taps_ + t] = total(weight_sums + at, packed);
        }
      }
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
  // rows as fit.
  void plan() {
    constexpr std::int64_t kFewRows = 2, kTasks = 32;
    const std::int64_t budget =
        run_.caches.l2_bytes * 5 / 8 / static_cast<std::int64_t>(sizeof(float));
    const std::int64_t halo = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    const std::int64_t per_row = w_.stride_h * x_columns_ + dy_columns_;
    const std::int64_t around = halo * x_columns_ + halo / w_.stride_h * dy_columns_ + x_.w;
    const std::int64_t few = std::min(y_.h, kFewRows);
    std::int64_t chunks = 1;
    chunk_ = round_up(x_.c, kBlock);
    while (chunk_ > kBlock && (per_row * few + around) * chunk_ > budget) {
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
  Rows input_rows(const Rows& strip) const {
    const std::int64_t first = strip.first * w_.stride_h;
    const std::int64_t last = strip.last == y_.h ? x_.h : strip.last * w_.stride_h;
    return {std::min(first, x_.h), std::min(last, x_.h)};
  }

  // Rows of dy that these and the strip itself need.
  Rows output_rows(const Rows& strip, const Rows& input) const {
    Rows rows = strip;
    if (wanted_.input == nullptr || input.first >= input.last) return rows;
    const std::int64_t reach = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    rows.first = std::min(
        rows.first,
        std::max<std::int64_t>(0, ceil_div(input.first + w_.pad_top - reach, w_.stride_h)));
    rows.last =
        std::max(rows.last, std::min(y_.h, (input.last - 1 + w_.pad_top) / w_.stride_h + 1));
    return rows;
  }

  // Rows [first, last) of an image of `width` columns, with `left` columns of zeros before; rows
  // and columns outside of the image are zeros too. Block b of the channels goes to
  // to + b * block.
  void copy_rows(const float* image, std::int64_t height, std::int64_t width, const Rows& rows,
                 std::int64_t left, std::int64_t columns, std::int64_t channels, float* to,
                 std::int64_t block) const {
    const std::int64_t inside = std::clamp<std::int64_t>(columns - left, 0, width);
    const std::int64_t before = std::min(left, columns);
    auto clear = [&](float* pixels, std::int64_t count) {
      for (std::int64_t c = 0; c < channels; c += kBlock) {
        std::fill_n(pixels + c / kBlock * block, count * kBlock, 0.0f);
      }
    };
    for (std::int64_t r = rows.first; r < rows.last; ++r, to += columns * kBlock) {
      if (r < 0 || r >= height) {
        clear(to, columns);
        continue;
      }
      clear(to, before);
      run_.kernels.block_copy_f32(
          {image + r * width * x_.c, x_.c, to + before * kBlock, block, inside, channels});
      clear(to + (before + inside) * kBlock, columns - before - inside);
    }
  }

  // copy_rows(), but for the rows that the scratch holds already: those move to their new place.
  void hold_rows(const float* image, std::int64_t height, std::int64_t width, const Rows& rows,
                 Rows& held, std::int64_t left, std::int64_t columns, std::int64_t channels,
                 float* to, std::int64_t block) const {
    Rows missing = rows;
    if (held.first <= rows.first && rows.first < held.last) {
      const std::int64_t row = columns * kBlock;
      missing.first = std::min(held.last, rows.last);
      for (std::int64_t c = 0; c < channels; c += kBlock) {
        float* first = to + c / kBlock * block;
        std::memmove(first, first + (rows.first - held.first) * row,
                     static_cast<std::size_t>((missing.first - rows.first) * row) * sizeof(float));
      }
    }
    held = rows;
    copy_rows(image, height, width, missing, left, columns, channels,
              to + (missing.first - rows.first) * columns * kBlock, block);
  }

  void part(const float* x, const float* dy, const float* packed_weight, std::int64_t group,
            std::int64_t channel, std::int64_t channels, float* dw, float* db) const {
    Workspace::Scope scope(Workspace::of_this_thread());
    const std::int64_t most_dy =
        std::min(y_.h, strip_ + 2 + std::int64_t{w_.kernel_h} * w_.dilation_h / w_.stride_h);
    const std::int64_t blocks = ceil_div(channels, kBlock);
    // An odd number of lines: blocks at a power of two of bytes would share few sets of the cache.
    const std::int64_t x_block = (scratch_rows_x(strip_) * x_columns_ | 1) * kBlock;
    const std::int64_t dy_block = (most_dy * dy_columns_ | 1) * kBlock;
    float* x_scratch = dw == nullptr ? nullptr : scope.take(x_block * blocks);
    float* dy_scratch = scope.take(dy_block * blocks);
    float* dx_row = wanted_.input == nullptr ? nullptr : scope.take(x_.w * channels);
    const float** row_at = scope.take<const float*>(w_.kernel_h);
    const std::int64_t last_image = (group + 1) * x_.n / groups_;
    for (std::int64_t n = group * x_.n / groups_; n < last_image; ++n) {
      const float* x_image = x + n * x_.h * x_.w * x_.c + channel;
      const float* dy_image = dy + n * y_.h * y_.w * x_.c + channel;
      if (db != nullptr) run_.kernels.sum_f32({dy_image, x_.c, db, y_.h * y_.w, channels});
      if (dw == nullptr && wanted_.input == nullptr) continue;
      Rows x_held = {0, 0}, dy_held = {0, 0};
      for (std::int64_t first = 0; first < y_.h; first += strip_) {
        const Rows strip = {first, std::min(first + strip_, y_.h)};
        const Rows input = input_rows(strip);
        const Rows output = output_rows(strip, input);
        hold_rows(dy_image, y_.h, y_.w, output, dy_held, left_, dy_columns_, channels, dy_scratch,
                  dy_block);
        if (dw != nullptr) {
          hold_rows(x_image, x_.h, x_.w, window_rows(strip), x_held, w_.pad_left, x_columns_,
                    channels, x_scratch, x_block);
        }
        const float* dy_at = dy_scratch + left_ * kBlock;
        for (std::int64_t c = 0; c < channels && dw != nullptr; c += kBlock) {
          const std::int64_t block = c / kBlock;
          weight_part(
              x_scratch + block * x_block,
              dy_at + block * dy_block + (strip.first - output.first) * dy_columns_ * kBlock,
              strip.last - strip.first, std::min(kBlock, channels - c), dw + c * taps_);
        }
        for (std::int64_t iy = input.first; iy < input.last && wanted_.input != nullptr; ++iy) {
          input_row(dy_at, dy_block, output, iy, packed_weight + channel * taps_, channels, row_at,
                    dx_row);
          store_row(dx_row, channels, wanted_.input + (n * x_.h + iy) * x_.w * x_.c + channel);
        }
      }
    }
  }

  // Rows of x under the windows of a strip, with those outside of the image.
  Rows window_rows(const Rows& strip) const {
    const std::int64_t top = strip.first * w_.stride_h - w_.pad_top;
    return {top, top + scratch_rows_x(strip.last - strip.first)};
  }

  // Both on a block of channels.
  void weight_part(const float* x, const float* dy, std::int64_t rows, std::int64_t channels,
                   float* dw) const {
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
    if (tuned_.weight != nullptr) {
      tuned_.weight(a);
    } else {
      run_.kernels.depthwise_backward_weight_any_f32(
          {a, w_.kernel_h, w_.kernel_w, w_.stride_w, w_.dilation_w});
    }
  }

  // A row of dx to scratch; `dy` is its block 0.
  void input_row(const float* dy, std::int64_t dy_block, const Rows& output, std::int64_t iy,
                 const float* packed_weight, std::int64_t channels, const float** row_at,
                 float* dx_row) const {
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
  DepthwiseBackward(run, resolve(window, x.h, x.w), shape, out, wanted)(
      dense_x, nhwc_data(run, dy, scope), weight.data);
}

}  // namespace weebill
