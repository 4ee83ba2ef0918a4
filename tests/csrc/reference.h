// The C++ tests' only oracle: naive loops in double for every kernel of core/kernels.def and for
// every record of core/weebill.h.
//
// Each number comes with a bound on how far a float32 (or, in a PrecisionScope, float16) evaluation
// may be off, in any order of summation: gamma_n * sum |w| |x| for n operations (Higham, Accuracy
// and Stability of Numerical Algorithms, 2nd ed., section 3.1), carried through later layers by sum
// |w| and through an activation by its Lipschitz constant. So tolerances follow from the shapes,
// none is guessed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/weebill.h"
#include "kernels/args.h"

namespace weebill::reference {

constexpr double kUnit = 0x1p-24;  ///< unit roundoff of float32

/// Of the type that is judged: unit roundoff, an underflow's absolute error, the smallest normal
/// number.
struct Precision {
  double unit, tiny, normal;
};
constexpr Precision kFloat32{kUnit, 0x1p-149, 0x1p-126};
constexpr Precision kFloat16{0x1p-11, 0x1p-24, 0x1p-14};

inline Precision& precision() {
  static Precision current = kFloat32;
  return current;
}

/// Judges results of another type while it lives.
class PrecisionScope {
 public:
  explicit PrecisionScope(const Precision& of) : before_(precision()) { precision() = of; }
  ~PrecisionScope() { precision() = before_; }

 private:
  const Precision before_;
};

/// The bound on n factors (1 + d), |d| <= unit: Higham's gamma_n, or without its simplification,
/// which ends at n * unit = 1 and is loose long before.
inline double gamma(double n) {
  const double unit = precision().unit;
  return n * unit < 0.01 ? n * unit / (1 - n * unit) : std::expm1(n * std::log1p(unit));
}

/// A value and the largest absolute error that a result may have.
struct Bounded {
  double value = 0;
  double error = 0;
};

/// |got - value| / error, 0 where both are the same; infinite where NaN or infinity do not agree.
inline double error_ratio(float got, const Bounded& expected) {
  if (std::isnan(expected.value)) return std::isnan(got) ? 0 : HUGE_VAL;
  const double difference = std::abs(got - expected.value);
  if (static_cast<double>(got) == expected.value) return 0;
  // The oracle's own roundings are 2^29 times smaller than the bound's unit.
  const double ratio = difference / (expected.error * (1 + 1e-6));
  return ratio >= 0 ? ratio : HUGE_VAL;
}

/// Comparisons are written so that NaN passes through, as in torch.
inline double clamp(double x, double low, double high) {
  return x < low ? low : (x > high ? high : x);
}

inline double activate(std::int32_t activation, double x) {
  switch (activation) {
    case kActNone:
      return x;
    case kActRelu:
      return x < 0 ? 0 : x;
    case kActRelu6:
      return clamp(x, 0, 6);
    case kActHardswish:
      return x * clamp(x + 3, 0, 6) / 6;
    case kActHardsigmoid:
      return clamp(x / 6 + 0.5, 0, 1);
    case kActHardsigmoidPaddle:
      return clamp(x / 5 + 0.5, 0, 1);
    case kActSilu:
      return x / (1 + std::exp(-x));
    case kActSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return NAN;
}

/// Largest slope. Hardswish: (2x + 3) / 6 at x = 3. Silu: 1.0998 at x = 2.3994.
inline double lipschitz(std::int32_t activation) {
  switch (activation) {
    case kActHardswish:
      return 1.5;
    case kActHardsigmoid:
      return 1.0 / 6;
    case kActHardsigmoidPaddle:
      return 0.2;
    case kActSilu:
      return 1.0999;
    case kActSigmoid:
      return 0.25;
    default:
      return 1;
  }
}

/// What evaluating the activation itself may add, at pre-activation x.
inline double activation_roundings(std::int32_t activation, double x) {
  const double y = std::abs(activate(activation, x));
  // x/6 + 1/2 rounds the constant, the product and the sum, each of size at most 1; where it
  // saturates by a margin, clamping makes it exact.
  const double ramp = std::abs(x) < 4 ? 3 * precision().unit : 0;
  switch (activation) {
    case kActHardswish:
      return std::abs(x) * ramp + 2 * y * precision().unit;
    case kActHardsigmoid:
    case kActHardsigmoidPaddle:
      return ramp;
    // exp to 2 ulp, a sum, a division; flushing a result that is not normal is allowed here.
    case kActSigmoid:
      return 8 * y * precision().unit + precision().normal;
    case kActSilu:
      return 10 * y * precision().unit + precision().normal * (1 + std::abs(x));
    default:
      return 0;
  }
}

inline Bounded apply(std::int32_t activation, const Bounded& z) {
  Bounded y{activate(activation, z.value), 0};
  if (!std::isfinite(z.value)) return y;
  y.error = lipschitz(activation) * z.error + precision().tiny;
  // The roundings depend on x; within the error of z they change by less than the factor 2 that
  // activation_roundings leaves, except where a ramp begins, which its margin covers.
  y.error += activation_roundings(activation, z.value);
  if (activation == kActNone || activation == kActRelu || activation == kActRelu6) {
    y.error = z.error;
  }
  return y;
}

inline Bounded add(const Bounded& a, const Bounded& b) {
  const double sum = a.value + b.value;
  return {sum, a.error + b.error + precision().unit * (std::abs(sum) + a.error + b.error)};
}

inline Bounded multiply(const Bounded& a, const Bounded& b) {
  const double carried =
      std::abs(a.value) * b.error + std::abs(b.value) * a.error + a.error * b.error;
  const double product = a.value * b.value;
  return {product, carried + precision().unit * (std::abs(product) + carried) + precision().tiny};
}

/// A sum of products with its bound.
class Dot {
 public:
  void add(double weight, const Bounded& x) {
    value_ += weight * x.value;
    carried_ += std::abs(weight) * x.error;
    magnitude_ += std::abs(weight) * (std::abs(x.value) + x.error);
    ++terms_;
  }
  /// `roundings`: how many operations a term may go through besides its product and the sums.
  Bounded result(int roundings = 0) const {
    const double operations = static_cast<double>(terms_ + 1 + roundings);
    return {value_, carried_ + gamma(operations) * magnitude_ + operations * precision().tiny};
  }

 private:
  double value_ = 0, carried_ = 0, magnitude_ = 0;
  std::int64_t terms_ = 0;
};

// ------ kernels, on plain weights; inputs are read through x(...), which knows the strides

/// PointwiseArgs before the activation: z[p * n + o] = bias[o] + sum_i w[o * k + i] s[i] x(p, i).
template <typename X>
std::vector<Bounded> pointwise(std::int64_t m, std::int64_t k, std::int64_t n, X x, const float* w,
                               const float* bias, const float* scale) {
  std::vector<Bounded> z(static_cast<std::size_t>(m * n));
  for (std::int64_t p = 0; p < m; ++p) {
    for (std::int64_t o = 0; o < n; ++o) {
      Dot dot;
      dot.add(1, {bias[o], 0});
      for (std::int64_t i = 0; i < k; ++i) {
        const double factor = scale != nullptr ? scale[i] : 1.0;
        dot.add(w[o * k + i] * factor, {x(p, i), 0});
      }
      z[static_cast<std::size_t>(p * n + o)] = dot.result(scale != nullptr ? 1 : 0);
    }
  }
  return z;
}

/// DepthwiseArgs and DepthwiseAnyArgs before the activation, w[c][kernel_h][kernel_w]:
/// z[j * channels + c] = bias[c] + sum_{u < rows, v < taps} w[c, first_row + u, first_tap + v]
///                                                         * x(u, j, v, c).
struct DepthwiseShape {
  std::int64_t kernel_h, kernel_w, first_row, rows, first_tap, taps, columns, channels;
};
template <typename X>
std::vector<Bounded> depthwise(const DepthwiseShape& s, X x, const float* w, const float* bias) {
  std::vector<Bounded> z(static_cast<std::size_t>(s.columns * s.channels));
  for (std::int64_t j = 0; j < s.columns; ++j) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      Dot dot;
      dot.add(1, {bias[c], 0});
      for (std::int64_t u = 0; u < s.rows; ++u) {
        for (std::int64_t v = 0; v < s.taps; ++v) {
          const std::int64_t tap =
              (c * s.kernel_h + s.first_row + u) * s.kernel_w + s.first_tap + v;
          dot.add(w[tap], {x(u, j, v, c), 0});
        }
      }
      z[static_cast<std::size_t>(j * s.channels + c)] = dot.result();
    }
  }
  return z;
}

/// start[c] + sum over the pixels of x(p, c): SumArgs, and DepthwiseArgs::sum on its outputs.
template <typename X>
std::vector<Bounded> sum(std::int64_t pixels, std::int64_t channels, X x, const float* start) {
  std::vector<Bounded> sums(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) {
    Dot dot;
    dot.add(1, {start[c], 0});
    for (std::int64_t p = 0; p < pixels; ++p) dot.add(1, x(p, c));
    sums[static_cast<std::size_t>(c)] = dot.result();
  }
  return sums;
}

// ------ records

/// NHWC.
struct Tensor {
  explicit Tensor(const Shape& s)
      : shape(s), data(static_cast<std::size_t>(s.n * s.h * s.w * s.c)) {}
  std::size_t index(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return static_cast<std::size_t>(((n * shape.h + h) * shape.w + w) * shape.c + c);
  }
  Bounded& at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    return data[index(n, c, h, w)];
  }
  const Bounded& at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
    return data[index(n, c, h, w)];
  }
  Shape shape;
  std::vector<Bounded> data;
};

/// Output size and the padding before, along one axis. size <= 0: the window does not fit.
struct Axis {
  std::int64_t size, before;
};
inline Axis output_axis(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                        std::int64_t dilation, std::int64_t before, std::int64_t after, bool same) {
  const std::int64_t extent = dilation * (kernel - 1) + 1;
  if (same) {
    const std::int64_t size = (in + stride - 1) / stride;
    const std::int64_t pad = std::max<std::int64_t>(0, (size - 1) * stride + extent - in);
    return {size, pad / 2};
  }
  const std::int64_t room = in + before + after - extent;
  return {room < 0 ? 0 : room / stride + 1, before};
}

struct Geometry {
  Axis vertical, horizontal;
};
inline Geometry geometry(const Window& window, std::int64_t kernel_h, std::int64_t kernel_w,
                         const Shape& x) {
  return {output_axis(x.h, kernel_h, window.stride_h, window.dilation_h, window.pad_top,
                      window.pad_bottom, window.same != 0),
          output_axis(x.w, kernel_w, window.stride_w, window.dilation_w, window.pad_left,
                      window.pad_right, window.same != 0)};
}

inline Tensor activated(Tensor x, Activation activation) {
  for (Bounded& value : x.data) value = apply(static_cast<std::int32_t>(activation), value);
  return x;
}

/// Convolution without its activation.
inline Tensor linear_conv2d(const Weight& weight, const Weight& bias, const Window& window,
                            std::int64_t groups, const Tensor& x) {
  const std::int64_t c_out = weight.shape[0], c_group = weight.shape[1];
  const std::int64_t kernel_h = weight.shape[2], kernel_w = weight.shape[3];
  const Geometry g = geometry(window, kernel_h, kernel_w, x.shape);
  Tensor y({x.shape.n, c_out, g.vertical.size, g.horizontal.size});
  for (std::int64_t n = 0; n < y.shape.n; ++n) {
    for (std::int64_t i = 0; i < y.shape.h; ++i) {
      for (std::int64_t j = 0; j < y.shape.w; ++j) {
        for (std::int64_t o = 0; o < c_out; ++o) {
          const std::int64_t first_channel = o / (c_out / groups) * c_group;
          Dot dot;
          if (bias) dot.add(1, {bias.data[o], 0});
          for (std::int64_t u = 0; u < kernel_h; ++u) {
            const std::int64_t row =
                i * window.stride_h + u * window.dilation_h - g.vertical.before;
            if (row < 0 || row >= x.shape.h) continue;
            for (std::int64_t v = 0; v < kernel_w; ++v) {
              const std::int64_t column =
                  j * window.stride_w + v * window.dilation_w - g.horizontal.before;
              if (column < 0 || column >= x.shape.w) continue;
              for (std::int64_t c = 0; c < c_group; ++c) {
                dot.add(weight.data[((o * c_group + c) * kernel_h + u) * kernel_w + v],
                        x.at(n, first_channel + c, row, column));
              }
            }
          }
          y.at(n, o, i, j) = dot.result();
        }
      }
    }
  }
  return y;
}

inline Tensor conv2d(const Conv2dSpec& spec, const Tensor& x) {
  return activated(linear_conv2d(spec.weight, spec.bias, spec.window, spec.groups, x),
                   spec.activation);
}

inline Tensor global_pool(const Tensor& x) {
  Tensor y({x.shape.n, x.shape.c, 1, 1});
  const double pixels = static_cast<double>(x.shape.h * x.shape.w);
  for (std::int64_t n = 0; n < x.shape.n; ++n) {
    for (std::int64_t c = 0; c < x.shape.c; ++c) {
      Dot dot;
      for (std::int64_t i = 0; i < x.shape.h; ++i) {
        for (std::int64_t j = 0; j < x.shape.w; ++j) dot.add(1 / pixels, x.at(n, c, i, j));
      }
      y.at(n, c, 0, 0) = dot.result(1);  // 1 / pixels is rounded as well
    }
  }
  return y;
}

/// The factors per channel of squeeze-and-excitation, (n, c, 1, 1).
inline Tensor excitation(const Weight& reduce_weight, const Weight& reduce_bias,
                         const Weight& expand_weight, const Weight& expand_bias,
                         Activation activation, Activation gate, const Tensor& x) {
  const Window window;
  const Tensor reduced =
      activated(linear_conv2d(reduce_weight, reduce_bias, window, 1, global_pool(x)), activation);
  return activated(linear_conv2d(expand_weight, expand_bias, window, 1, reduced), gate);
}

inline Tensor scaled(Tensor x, const Tensor& factors) {
  for (std::int64_t n = 0; n < x.shape.n; ++n) {
    for (std::int64_t i = 0; i < x.shape.h; ++i) {
      for (std::int64_t j = 0; j < x.shape.w; ++j) {
        for (std::int64_t c = 0; c < x.shape.c; ++c) {
          x.at(n, c, i, j) = multiply(x.at(n, c, i, j), factors.at(n, c, 0, 0));
        }
      }
    }
  }
  return x;
}

inline Tensor squeeze_excite(const SqueezeExciteSpec& spec, const Tensor& x) {
  return scaled(x, excitation(spec.reduce_weight, spec.reduce_bias, spec.expand_weight,
                              spec.expand_bias, spec.activation, spec.gate, x));
}

inline Tensor separable(const SeparableSpec& spec, const Tensor& x) {
  const Window pointwise_window;
  Tensor t = x;
  if (spec.expand_weight) {
    t = activated(linear_conv2d(spec.expand_weight, spec.expand_bias, pointwise_window, 1, t),
                  spec.expand_activation);
  }
  t = activated(
      linear_conv2d(spec.depthwise_weight, spec.depthwise_bias, spec.window, t.shape.c, t),
      spec.depthwise_activation);
  if (spec.se_reduce_weight) {
    t = scaled(t, excitation(spec.se_reduce_weight, spec.se_reduce_bias, spec.se_expand_weight,
                             spec.se_expand_bias, spec.se_activation, spec.se_gate, t));
  }
  if (spec.project_weight) {
    t = activated(linear_conv2d(spec.project_weight, spec.project_bias, pointwise_window, 1, t),
                  spec.project_activation);
  }
  if (spec.residual) {
    for (std::size_t i = 0; i < t.data.size(); ++i) t.data[i] = add(x.data[i], t.data[i]);
  }
  return t;
}

inline Tensor max_pool(const Window& window, const Tensor& x) {
  const Geometry g = geometry(window, window.kernel_h, window.kernel_w, x.shape);
  Tensor y({x.shape.n, x.shape.c, g.vertical.size, g.horizontal.size});
  for (std::int64_t n = 0; n < y.shape.n; ++n) {
    for (std::int64_t i = 0; i < y.shape.h; ++i) {
      for (std::int64_t j = 0; j < y.shape.w; ++j) {
        for (std::int64_t c = 0; c < y.shape.c; ++c) {
          Bounded best{-HUGE_VAL, 0};
          for (std::int64_t u = 0; u < window.kernel_h; ++u) {
            for (std::int64_t v = 0; v < window.kernel_w; ++v) {
              const std::int64_t row =
                  i * window.stride_h + u * window.dilation_h - g.vertical.before;
              const std::int64_t column =
                  j * window.stride_w + v * window.dilation_w - g.horizontal.before;
              if (row < 0 || row >= x.shape.h || column < 0 || column >= x.shape.w) continue;
              const Bounded& value = x.at(n, c, row, column);
              best.value =
                  std::isnan(value.value) || value.value > best.value ? value.value : best.value;
              best.error = std::max(best.error, value.error);
            }
          }
          y.at(n, c, i, j) = best;
        }
      }
    }
  }
  return y;
}

inline Tensor average_pool(const Window& window, const Tensor& x) {
  const std::vector<float> weight(
      static_cast<std::size_t>(x.shape.c * window.kernel_h * window.kernel_w),
      1.0f / static_cast<float>(window.kernel_h * window.kernel_w));
  return linear_conv2d({weight.data(), {x.shape.c, 1, window.kernel_h, window.kernel_w}}, {},
                       window, x.shape.c, x);
}

/// The channels `source(c)` of x, for c in [0, channels).
template <typename Source>
Tensor take_channels(const Tensor& x, std::int64_t channels, Source source) {
  Tensor y({x.shape.n, channels, x.shape.h, x.shape.w});
  for (std::int64_t n = 0; n < x.shape.n; ++n) {
    for (std::int64_t i = 0; i < x.shape.h; ++i) {
      for (std::int64_t j = 0; j < x.shape.w; ++j) {
        for (std::int64_t c = 0; c < channels; ++c) y.at(n, c, i, j) = x.at(n, source(c), i, j);
      }
    }
  }
  return y;
}

inline Tensor concat(const Tensor& a, const Tensor& b) {
  Tensor y({a.shape.n, a.shape.c + b.shape.c, a.shape.h, a.shape.w});
  for (std::int64_t n = 0; n < y.shape.n; ++n) {
    for (std::int64_t i = 0; i < y.shape.h; ++i) {
      for (std::int64_t j = 0; j < y.shape.w; ++j) {
        for (std::int64_t c = 0; c < y.shape.c; ++c) {
          y.at(n, c, i, j) = c < a.shape.c ? a.at(n, c, i, j) : b.at(n, c - a.shape.c, i, j);
        }
      }
    }
  }
  return y;
}

inline Tensor channel_shuffle(const Tensor& x, std::int64_t groups) {
  const std::int64_t per_group = x.shape.c / groups;
  return take_channels(x, x.shape.c,
                       [&](std::int64_t c) { return c % groups * per_group + c / groups; });
}

inline Tensor shuffle_unit(const ShuffleUnitSpec& spec, const Tensor& x) {
  if (spec.shortcut.depthwise_weight) {
    return channel_shuffle(concat(separable(spec.shortcut, x), separable(spec.branch, x)), 2);
  }
  const std::int64_t half = x.shape.c / 2;
  const Tensor x1 = take_channels(x, half, [](std::int64_t c) { return c; });
  const Tensor x2 = take_channels(x, half, [&](std::int64_t c) { return half + c; });
  return channel_shuffle(concat(x1, separable(spec.branch, x2)), 2);
}

inline Tensor shuffle_unit_v1(const ShuffleUnitV1Spec& spec, const Tensor& x) {
  using Shortcut = ShuffleUnitV1Spec::Shortcut;
  const Window pointwise;
  Tensor t = activated(
      linear_conv2d(spec.expand_weight, spec.expand_bias, pointwise, spec.expand_groups, x),
      spec.expand_activation);
  t = channel_shuffle(t, spec.shuffle_groups);
  t = activated(
      linear_conv2d(spec.depthwise_weight, spec.depthwise_bias, spec.window, t.shape.c, t),
      spec.depthwise_activation);
  t = linear_conv2d(spec.project_weight, spec.project_bias, pointwise, spec.project_groups, t);
  if (spec.shortcut == Shortcut::kAdd) {
    for (std::size_t i = 0; i < t.data.size(); ++i) t.data[i] = add(x.data[i], t.data[i]);
  } else if (spec.shortcut == Shortcut::kConcat) {
    t = concat(average_pool(spec.window, x), t);
  }
  return activated(t, spec.activation);
}

}  // namespace weebill::reference
