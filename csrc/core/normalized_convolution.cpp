// Convolutions of a network in training: the input is normalised as it is read, and the moments of
// the output are summed while it is in the cache.
//
// A layer so reads its input once and writes its output once. The backward reads the gradient of
// the normalised output, z and x once each, and writes the gradient by x, summing up what the
// normalisation before it will ask for: four passes over large tensors instead of the nine of
// convolution, normalisation and activation one by one.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/blocked_rows.h"
#include "core/status.h"
#include "core/training.h"

namespace weebill {
namespace {

bool is_depthwise(const NormalizedConvolutionSpec& spec, std::int64_t channels) {
  return spec.weight.shape[0] == channels && spec.weight.shape[1] == 1 &&
         (channels > 1 || spec.weight.shape[2] * spec.weight.shape[3] > 1);
}

// x as pixels that follow one another, channels side by side; copied if it is not.
PixelSource pixels_of(const Run& run, const TensorView& x, const Normalization& input,
                      Workspace::Scope& scope) {
  const bool strided = x.stride_c == 1 && x.stride_h == x.w * x.stride_w &&
                       x.stride_n == x.h * x.stride_h && input.mean == nullptr;
  if (strided) return {x.data, x.stride_w};
  return {nhwc_data(run, x, scope), x.c, input};
}

// A 1 x 1 convolution, block of pixels by block of pixels.
void pointwise_forward(const Run& run, const PixelSource& x, const ProductShape& s,
                       const float* weight, const Moments& moments, std::int64_t groups, float* z,
                       Workspace::Scope& scope) {
  float* packed = scope.take(product_elements(s.k, s.n));
  run.for_ranges(s.n, kBlock, s.k, [&](std::int64_t first, std::int64_t last) {
    pack_product(weight + first * s.k, last - first, s.k, 1, packed + first * s.k);
  });
  const float* zeros = scope.zeros(round_up(s.n, kBlock));
  // A result that no cache holds until it is read goes past them.
  const bool streams = s.m * s.n >= kStreamedElements;
  // Input and output of a block share the second cache with the weights.
  const std::int64_t budget = run.caches.l2_bytes / 4 / static_cast<std::int64_t>(sizeof(float));
  const std::int64_t block =
      std::clamp<std::int64_t>(budget / (s.k + s.n), 32, GroupSums::kPixelsInFloat);
  run.for_shares(groups, s.m, 1, [&](std::int64_t first, std::int64_t last, std::int64_t group) {
    Workspace::Scope task_scope(Workspace::of_this_thread());
    float* made = x.is_made() ? task_scope.take(block * s.k) : nullptr;
    float* product = streams ? task_scope.take(block * s.n) : nullptr;
    moments.begin(group, 0, s.n);
    for (std::int64_t at = first; at < last; at += block) {
      const std::int64_t count = std::min(block, last - at);
      const PixelSource::View from = x.fetch(run, at, count, 0, s.k, made);
      float* const y = streams ? product : z + at * s.n;
      run.kernels.pointwise_f32(
          product_args<float>(from.data, from.stride, packed, zeros, y, s.n, count, s.k, s.n));
      moments.add(run, group, 0, s.n, y, s.n, count);
      if (streams) {
        const std::int64_t all = count * s.n;
        run.kernels.copy_f32({product, all, z + at * s.n, all, 1, all, /*stream=*/true});
      }
    }
    moments.end(group, 0, s.n);
    if (streams) publish_streams();
  });
}

// A depthwise convolution, in strips of output rows; a group is a run of output rows of all images.
class DepthwiseForward {
 public:
  DepthwiseForward(const Run& run, const Window& window, const Shape& x, const Shape& y)
      : run_(run), w_(window), x_(x), y_(y) {
    columns_ = (y.w - 1) * w_.stride_w + std::int64_t{w_.kernel_w - 1} * w_.dilation_w + 1;
    const std::int64_t budget = run.caches.l2_bytes / 2 / static_cast<std::int64_t>(sizeof(float));
    const std::int64_t halo = std::int64_t{w_.kernel_h - 1} * w_.dilation_h;
    const std::int64_t per_row = w_.stride_h * columns_ + y.w;
    const std::int64_t around = halo * columns_ + x.w;
    chunk_ = round_up(x.c, kBlock);
    constexpr std::int64_t kFewRows = 2;
    const std::int64_t few = std::min(y.h, kFewRows);
    for (std::int64_t chunks = 2; chunk_ > kBlock && (per_row * few + around) * chunk_ > budget;) {
      chunk_ = round_up(ceil_div(x.c, chunks++), kBlock);
    }
    const std::int64_t rows = std::max((budget / chunk_ - around) / per_row, few);
    strip_ = ceil_div(y.h, ceil_div(y.h, std::min(rows, y.h)));
  }

  std::int64_t chunks() const { return ceil_div(x_.c, chunk_); }

  // Output rows [first, last) of all images together, one chunk of channels.
  void operator()(const PixelSource& x, const float* packed, std::int64_t chunk, std::int64_t group,
                  std::int64_t first, std::int64_t last, const Moments& moments, float* z) const {
    Workspace::Scope scope(Workspace::of_this_thread());
    const std::int64_t channel = chunk * chunk_;
    const std::int64_t channels = std::min(chunk_, x_.c - channel);
    BlockedRows rows(run_, x, {x_.h, x_.w, w_.pad_left, columns_, window_rows(strip_), channels},
                     scope);
    const bool streams = y_.n * y_.h * y_.w * y_.c >= kStreamedElements;
    float* strip_out = streams ? scope.take(strip_ * y_.w * channels) : nullptr;
    const float* zeros = scope.zeros(kBlock);
    const float** row_at = scope.take<const float*>(w_.kernel_h);
    moments.begin(group, channel, channels);
    for (std::int64_t at = first; at < last;) {
      const std::int64_t image = at / y_.h, top = at % y_.h;
      const std::int64_t bottom = std::min(y_.h, top + last - at);
      rows.begin(image, channel);
      for (std::int64_t oy = top; oy < bottom; oy += strip_) {
        const std::int64_t count = std::min(strip_, bottom - oy);
        const std::int64_t from = oy * w_.stride_h - w_.pad_top;
        rows.hold({from, from + window_rows(count)});
        float* to = z + (image * y_.h + oy) * y_.w * y_.c + channel;
        float* out = streams ? strip_out : to;
        const std::int64_t out_stride = streams ? channels : y_.c;
        for (std::int64_t c = 0; c < channels; c += kBlock) {
          block(rows, c, std::min(kBlock, channels - c), packed + (channel + c) * taps(), zeros,
                count, row_at, out + c, out_stride);
        }
        const std::int64_t pixels = count * y_.w;
        moments.add(run_, group, channel, channels, out, out_stride, pixels);
        if (streams) {
          run_.kernels.copy_f32({out, channels, to, y_.c, pixels, channels, /*stream=*/true});
        }
      }
      at += bottom - top;
    }
    moments.end(group, channel, channels);
    if (streams) publish_streams();
  }

 private:
  std::int64_t taps() const { return std::int64_t{w_.kernel_h} * w_.kernel_w; }
  std::int64_t window_rows(std::int64_t rows) const {
    return (rows - 1) * w_.stride_h + std::int64_t{w_.kernel_h - 1} * w_.dilation_h + 1;
  }

  void (*tuned() const)(const DepthwiseArgs&) {
    if (w_.kernel_h != w_.kernel_w || w_.dilation_w != 1) return nullptr;
    if (w_.kernel_w == 3 && w_.stride_w == 1) return run_.kernels.depthwise_k3s1_f32;
    if (w_.kernel_w == 3 && w_.stride_w == 2) return run_.kernels.depthwise_k3s2_f32;
    if (w_.kernel_w == 5 && w_.stride_w == 1) return run_.kernels.depthwise_k5s1_f32;
    if (w_.kernel_w == 5 && w_.stride_w == 2) return run_.kernels.depthwise_k5s2_f32;
    return nullptr;
  }

  // The rows of a strip, for the block of channels that begins at c.
  void block(const BlockedRows& rows, std::int64_t c, std::int64_t channels, const float* packed,
             const float* zeros, std::int64_t count, const float** row_at, float* out,
             std::int64_t out_stride) const {
    const auto kernel = tuned();
    DepthwiseArgs a{};
    a.x_rows = row_at;
    a.x_stride = kBlock;
    a.w = packed;
    a.bias = zeros;
    a.y_stride = out_stride;
    a.rows = w_.kernel_h;
    a.columns = y_.w;
    a.channels = channels;
    const float* from = rows.data() + c / kBlock * rows.block_stride();
    for (std::int64_t r = 0; r < count; ++r) {
      for (std::int64_t u = 0; u < w_.kernel_h; ++u) {
        row_at[u] = from + (r * w_.stride_h + u * w_.dilation_h) * rows.row_stride();
      }
      a.y = out + r * y_.w * out_stride;
      if (kernel != nullptr) {
        kernel(a);
      } else {
        run_.kernels.depthwise_any_f32(
            {a, w_.kernel_h, w_.kernel_w, w_.stride_w, w_.dilation_w, 0, w_.kernel_w});
      }
    }
  }

  const Run& run_;
  const Window w_;
  const Shape x_, y_;
  std::int64_t columns_ = 0, chunk_ = 0, strip_ = 0;
};

Window window_of(const NormalizedConvolutionSpec& spec, const TensorView& x) {
  Window window = spec.window;
  window.kernel_h = static_cast<std::int32_t>(spec.weight.shape[2]);
  window.kernel_w = static_cast<std::int32_t>(spec.weight.shape[3]);
  return resolve(window, x.h, x.w);
}

Run run_on(const Shape& out, const Weight& weight) {
  const Run whole = {kernels(), machine_caches(), max_threads()};
  const std::int64_t taps = weight.shape[1] * weight.shape[2] * weight.shape[3];
  return {whole.kernels, whole.caches,
          plan_threads(out.n * out.h * out.w * out.c * taps, whole.threads)};
}

}  // namespace

Normalization normalization_of(const float* statistics, std::int64_t channels,
                               Activation activation) {
  return {statistics + kMeanRow * channels, statistics + kScaleRow * channels,
          statistics + kShiftRow * channels, activation};
}

Shape normalized_convolution_output(const NormalizedConvolutionSpec& spec, const Shape& x) {
  const auto& shape = spec.weight.shape;
  check(shape.size() == 4, spec.op, ": weight must have 4 dimensions, got ", shape.size());
  const bool depthwise = is_depthwise(spec, x.c);
  const Window& w = spec.window;
  check(depthwise || (shape[1] == x.c && shape[2] == 1 && shape[3] == 1 && w.stride_h == 1 &&
                      w.stride_w == 1 && w.pad_top == 0 && w.pad_left == 0 && w.pad_bottom == 0 &&
                      w.pad_right == 0),
        spec.op, ": weight must be (", x.c, ", 1, kh, kw), or (c_out, ", x.c,
        ", 1, 1) with stride 1 and without padding, for x with ", x.c, " channels");
  Conv2dSpec plain;
  plain.op = spec.op;
  plain.weight = spec.weight;
  plain.window = spec.window;
  plain.groups = depthwise ? x.c : 1;
  const Shape out = conv2d_output(plain, x);
  check(out.n * out.h * out.w >= 1, spec.op, ": x must not be empty, got (", x.n, ", ", x.c, ", ",
        x.h, ", ", x.w, ")");
  check(spec.norm.eps >= 0, spec.op, ": eps must not be negative, got ", spec.norm.eps);
  for (const auto& [name, weight] :
       {std::pair("norm_weight", &spec.norm.weight), {"norm_bias", &spec.norm.bias}}) {
    check(!*weight || (weight->shape.size() == 1 && weight->shape[0] == out.c), spec.op, ": ", name,
          " must have shape (", out.c, ",) for ", out.c, " output channels");
  }
  return out;
}

void normalized_convolution(const TensorView& x, const NormalizedConvolutionSpec& spec, float* z,
                            float* statistics) {
  const Shape shape = {x.n, x.c, x.h, x.w};
  const Shape out = normalized_convolution_output(spec, shape);
  const Run run = run_on(out, spec.weight);
  Workspace::Scope scope(Workspace::of_this_thread());
  const PixelSource source = pixels_of(run, x, spec.input, scope);
  const std::int64_t pixels = out.n * out.h * out.w;
  float* mean = statistics + kMeanRow * out.c;
  float* var = statistics + kVarRow * out.c;
  // Groups follow from shapes alone, and so do the sums.
  constexpr std::int64_t kMostGroups = 32, kPixelsPerGroup = 128;
  if (is_depthwise(spec, x.c)) {
    const DepthwiseForward depthwise(run, window_of(spec, x), shape, out);
    const std::int64_t taps = spec.weight.shape[2] * spec.weight.shape[3];
    float* packed = scope.take(round_up(x.c, kBlock) * taps);
    pack_taps(spec.weight.data, x.c, taps, packed);
    const std::int64_t chunks = depthwise.chunks(), rows = out.n * out.h;
    // Whole images where there are enough of them: rows between bands are read twice.
    constexpr std::int64_t kEnoughImages = 8;
    const std::int64_t groups =
        std::clamp<std::int64_t>(kMostGroups / chunks, 1, out.n >= kEnoughImages ? out.n : rows);
    const Moments moments(groups, out.c, scope);
    run.for_each(groups * chunks, [&](std::int64_t task) {
      const std::int64_t group = task / chunks;
      depthwise(source, packed, task % chunks, group, group * rows / groups,
                (group + 1) * rows / groups, moments, z);
    });
    moments.finish(pixels, mean, var);
  } else {
    const std::int64_t groups = std::clamp<std::int64_t>(pixels / kPixelsPerGroup, 1, kMostGroups);
    const Moments moments(groups, out.c, scope);
    pointwise_forward(run, source, {pixels, x.c, out.c}, spec.weight.data, moments, groups, z,
                      scope);
    moments.finish(pixels, mean, var);
  }
  for (std::int64_t c = 0; c < out.c; ++c) {
    const double weight = spec.norm.weight ? static_cast<double>(spec.norm.weight.data[c]) : 1.0;
    statistics[kScaleRow * out.c + c] =
        static_cast<float>(weight / std::sqrt(static_cast<double>(var[c]) + spec.norm.eps));
    statistics[kShiftRow * out.c + c] = spec.norm.bias ? spec.norm.bias.data[c] : 0.0f;
  }
}

void normalized_convolution_backward(const float* dy, const float* z, const float* statistics,
                                     const double* sums, const TensorView& x,
                                     const NormalizedConvolutionSpec& spec,
                                     const NormalizedGradients& wanted) {
  const Shape shape = {x.n, x.c, x.h, x.w};
  const Shape out = normalized_convolution_output(spec, shape);
  const Run run = run_on(out, spec.weight);
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t pixels = out.n * out.h * out.w;
  float* offset = scope.take(round_up(out.c, kBlock));
  float* slope = scope.take(round_up(out.c, kBlock));
  const double* dots = sums + out.c;
  for (std::int64_t c = 0; c < out.c; ++c) {
    const double scale = static_cast<double>(statistics[kScaleRow * out.c + c]);
    const double inverse =
        1 / std::sqrt(static_cast<double>(statistics[kVarRow * out.c + c]) + spec.norm.eps);
    offset[c] = static_cast<float>(scale * sums[c] / static_cast<double>(pixels));
    slope[c] =
        static_cast<float>(scale * inverse * inverse * dots[c] / static_cast<double>(pixels));
    if (wanted.norm_weight != nullptr) {
      wanted.norm_weight[c] = static_cast<float>(dots[c] * inverse);
    }
    if (wanted.norm_bias != nullptr) wanted.norm_bias[c] = static_cast<float>(sums[c]);
  }
  if (wanted.convolution.input == nullptr && wanted.convolution.weight == nullptr) return;
  const Normalization output = normalization_of(statistics, out.c, spec.norm.activation);
  const PixelSource source = pixels_of(run, x, spec.input, scope);
  const PixelSource gradient(dy, z, out.c, output, offset, slope);
  const InputNormalization before = {x.data, spec.input, wanted.input_sums};
  if (is_depthwise(spec, x.c)) {
    run_depthwise_backward(run, window_of(spec, x), shape, out, source, gradient, spec.weight.data,
                           wanted.convolution, before);
  } else {
    run_pointwise_backward(run, {pixels, x.c, out.c}, source, gradient, spec.weight.data,
                           wanted.convolution, before);
  }
}

}  // namespace weebill
