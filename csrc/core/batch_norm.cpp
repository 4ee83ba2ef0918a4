// Batch normalisation in training with the activation after it, forward and backward.
//
// Two passes over memory each: sums, then the result. The pixels are cut into groups that follow
// from the shapes alone; a group's sums are made in float32 over a few hundred pixels at a time,
// and from there on in float64, in order: the result is the same, bit for bit, for any number of
// threads. The first pass goes from the last group to the first and the second one back: it begins
// with what the first has left in the cache.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

constexpr std::int64_t kPixelsInFloat = 256;

/// The pixels of x in groups, and what belongs to a channel.
class Pass {
 public:
  Pass(const Run& run, std::int64_t pixels, std::int64_t channels, Workspace::Scope& scope)
      : run_(run), pixels_(pixels), channels_(channels), scope_(scope) {
    constexpr std::int64_t kMostGroups = 64, kElementsPerGroup = 1 << 14;
    groups_ = std::clamp<std::int64_t>(pixels * channels / kElementsPerGroup, 1,
                                       std::min(kMostGroups, pixels));
  }

  bool streams() const { return pixels_ * channels_ >= kStreamedElements; }

  float* per_channel() { return scope_.take(round_up(channels_, kBlock)); }

  /// body(run, first pixel, pixels), in the order of memory.
  template <typename Body>
  void forward(Body&& body) const {
    run_.for_each(groups_, [&](std::int64_t g) {
      body(run_, begin(g), begin(g + 1) - begin(g));
      if (streams()) publish_streams();
    });
  }

  /// Two sums per channel over all pixels: body(run, first pixel, pixels, sum, sum) adds its own.
  template <typename Body>
  void sums(Body&& body, double* first, double* second) {
    const std::int64_t width = round_up(channels_, kBlock);
    double* totals = scope_.take<double>(2 * width * groups_);
    float* parts = scope_.take(2 * width * groups_);
    run_.for_each(groups_, [&](std::int64_t task) {
      const std::int64_t g = groups_ - 1 - task;
      double* total = totals + 2 * width * g;
      float* part = parts + 2 * width * g;
      std::fill_n(total, 2 * width, 0.0);
      for (std::int64_t p = begin(g); p < begin(g + 1); p += kPixelsInFloat) {
        std::fill_n(part, 2 * width, 0.0f);
        body(run_, p, std::min(kPixelsInFloat, begin(g + 1) - p), part, part + width);
        for (std::int64_t i = 0; i < 2 * width; ++i) total[i] += static_cast<double>(part[i]);
      }
    });
    std::fill_n(first, channels_, 0.0);
    std::fill_n(second, channels_, 0.0);
    for (std::int64_t g = 0; g < groups_; ++g) {
      for (std::int64_t c = 0; c < channels_; ++c) {
        first[c] += totals[2 * width * g + c];
        second[c] += totals[2 * width * g + width + c];
      }
    }
  }

 private:
  std::int64_t begin(std::int64_t group) const { return group * pixels_ / groups_; }

  const Run& run_;
  const std::int64_t pixels_, channels_;
  Workspace::Scope& scope_;
  std::int64_t groups_ = 1;
};

// A value near the mean of each channel: sums of squares around it lose nothing to cancellation.
void rough_mean(const float* x, std::int64_t pixels, std::int64_t channels, float* mean) {
  const std::int64_t samples = std::min<std::int64_t>(pixels, 32);
  std::fill_n(mean, channels, 0.0f);
  for (std::int64_t s = 0; s < samples; ++s) {
    const float* pixel = x + s * pixels / samples * channels;
    for (std::int64_t c = 0; c < channels; ++c) mean[c] += pixel[c];
  }
  for (std::int64_t c = 0; c < channels; ++c) mean[c] /= static_cast<float>(samples);
}

void check_parameter(const std::string& op, const char* name, const Weight& weight,
                     std::int64_t channels) {
  check(!weight || (weight.shape.size() == 1 && weight.shape[0] == channels), op, ": ", name,
        " must have shape (", channels, ",) for x with ", channels, " channels");
}

void check_input(const std::string& op, const TensorView& x, const BatchNormSpec& spec) {
  check(x.n * x.h * x.w >= 1 && x.c >= 1, op, ": x must not be empty, got (", x.n, ", ", x.c, ", ",
        x.h, ", ", x.w, ")");
  check(spec.eps >= 0, op, ": eps must not be negative, got ", spec.eps);
  check_parameter(op, "weight", spec.weight, x.c);
  check_parameter(op, "bias", spec.bias, x.c);
}

/// What the kernels take: scale = weight / sqrt(var + eps), shift = bias.
struct Affine {
  float *scale, *shift;

  Affine(Pass& pass, const BatchNormSpec& spec, const float* var, std::int64_t channels)
      : scale(pass.per_channel()), shift(pass.per_channel()) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const double weight = spec.weight ? static_cast<double>(spec.weight.data[c]) : 1.0;
      scale[c] = static_cast<float>(weight / std::sqrt(static_cast<double>(var[c]) + spec.eps));
      shift[c] = spec.bias ? spec.bias.data[c] : 0.0f;
    }
  }

  Normalization of(const float* mean, Activation activation) const {
    return {mean, scale, shift, activation};
  }
};

Run run_on(std::int64_t elements) {
  const Run whole = {kernels(), machine_caches(), max_threads()};
  return {whole.kernels, whole.caches, plan_threads(elements * 4, whole.threads)};
}

void write_normalized(Pass& pass, const float* x, std::int64_t channels, const Normalization& n,
                      float* y) {
  pass.forward([&](const Run& run, std::int64_t first, std::int64_t count) {
    run.kernels.normalize_f32({x + first * channels, channels, n.mean, n.scale, n.shift,
                               y + first * channels, channels, count, channels,
                               static_cast<std::int32_t>(n.activation), pass.streams()});
  });
}

void sum_gradients(Pass& pass, const float* dy, const float* x, std::int64_t channels,
                   const Normalization& n, double* sum, double* dot) {
  pass.sums(
      [&](const Run& run, std::int64_t first, std::int64_t count, float* sums, float* dots) {
        const std::int64_t at = first * channels;
        run.kernels.normalize_sums_f32({dy + at, channels, x + at, channels, n.mean, n.scale,
                                        n.shift, sums, dots, count, channels,
                                        static_cast<std::int32_t>(n.activation)});
      },
      sum, dot);
}

}  // namespace

void normalize(const float* z, std::int64_t pixels, std::int64_t channels,
               const Normalization& normal, float* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const Run run = run_on(pixels * channels);
  Pass pass(run, pixels, channels, scope);
  write_normalized(pass, z, channels, normal, y);
}

void normalize_sums(const float* dy, const float* z, std::int64_t pixels, std::int64_t channels,
                    const Normalization& normal, double* sums) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const Run run = run_on(pixels * channels);
  Pass pass(run, pixels, channels, scope);
  sum_gradients(pass, dy, z, channels, normal, sums, sums + channels);
}

void batch_norm_activation(const TensorView& x, const BatchNormSpec& spec, float* y, float* mean,
                           float* var) {
  check_input("batch_norm_activation", x, spec);
  const std::int64_t pixels = x.n * x.h * x.w, channels = x.c;
  const Run run = run_on(pixels * channels);
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* data = nhwc_data(run, x, scope);
  Pass pass(run, pixels, channels, scope);
  float* near = pass.per_channel();
  rough_mean(data, pixels, channels, near);
  std::vector<double> sum(channels), square(channels);
  pass.sums(
      [&](const Run&, std::int64_t first, std::int64_t count, float* sums, float* squares) {
        run.kernels.moments_f32(
            {data + first * channels, channels, near, sums, squares, count, channels});
      },
      sum.data(), square.data());
  for (std::int64_t c = 0; c < channels; ++c) {
    const double off = sum[c] / static_cast<double>(pixels);
    const double variance = square[c] / static_cast<double>(pixels) - off * off;
    mean[c] = static_cast<float>(static_cast<double>(near[c]) + off);
    var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
  }
  const Affine affine(pass, spec, var, channels);
  write_normalized(pass, data, channels, affine.of(mean, spec.activation), y);
}

void batch_norm_activation_backward(const TensorView& dy, const TensorView& x,
                                    const BatchNormSpec& spec, const float* mean, const float* var,
                                    const ConvolutionGradients& wanted) {
  static const std::string op = "batch_norm_activation_backward";
  check_input(op, x, spec);
  check(dy.n == x.n && dy.c == x.c && dy.h == x.h && dy.w == x.w, op,
        ": grad_output must have the shape of x, (", x.n, ", ", x.c, ", ", x.h, ", ", x.w,
        "), got (", dy.n, ", ", dy.c, ", ", dy.h, ", ", dy.w, ")");
  const std::int64_t pixels = x.n * x.h * x.w, channels = x.c;
  const Run run = run_on(pixels * channels);
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* data = nhwc_data(run, x, scope);
  const float* grad = nhwc_data(run, dy, scope);
  Pass pass(run, pixels, channels, scope);
  const Affine affine(pass, spec, var, channels);
  const auto activation = static_cast<std::int32_t>(spec.activation);
  std::vector<double> sum(channels), dot(channels);
  sum_gradients(pass, grad, data, channels, affine.of(mean, spec.activation), sum.data(),
                dot.data());
  float* offset = pass.per_channel();
  float* slope = pass.per_channel();
  for (std::int64_t c = 0; c < channels; ++c) {
    const double inverse = 1 / std::sqrt(static_cast<double>(var[c]) + spec.eps);
    const double scale = (spec.weight ? static_cast<double>(spec.weight.data[c]) : 1.0) * inverse;
    offset[c] = static_cast<float>(scale * sum[c] / static_cast<double>(pixels));
    slope[c] = static_cast<float>(scale * inverse * inverse * dot[c] / static_cast<double>(pixels));
    if (wanted.weight != nullptr) wanted.weight[c] = static_cast<float>(dot[c] * inverse);
    if (wanted.bias != nullptr) wanted.bias[c] = static_cast<float>(sum[c]);
  }
  if (wanted.input == nullptr) return;
  pass.forward([&](const Run&, std::int64_t first, std::int64_t count) {
    const std::int64_t at = first * channels;
    run.kernels.normalize_backward_f32(
        {grad + at, channels, data + at, channels, mean, affine.scale, affine.shift, offset, slope,
         wanted.input + at, channels, count, channels, activation, pass.streams()});
  });
}

}  // namespace weebill
