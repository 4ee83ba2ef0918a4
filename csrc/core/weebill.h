// The C++ interface of weebill's core: no torch, no Python.
//
// A network is a list of *records*. A record is one packed block: a self-describing, position
// independent run of bytes that holds the geometry and the reordered weights of one operator
// (see pack.h). `run` executes a list of records on one tensor; every intermediate stays inside.
// The packed form is the same for every instruction set, so it can be saved and moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simd/half.h"

#if defined(_WIN32)
#define WEEBILL_API
#else
#define WEEBILL_API __attribute__((visibility("default")))
#endif

namespace weebill {

/// x is the pre-activation:
///   relu max(x,0); relu6 min(max(x,0),6); hardsigmoid min(max(x/6+1/2,0),1);
///   hardsigmoid_paddle min(max(x/5+1/2,0),1); hardswish x*hardsigmoid(x); sigmoid 1/(1+exp(-x));
///   silu x*sigmoid(x).
enum class Activation : std::int32_t {
  kNone = 0,
  kRelu,
  kRelu6,
  kHardswish,
  kHardsigmoid,
  kHardsigmoidPaddle,
  kSilu,
  kSigmoid,
};

/// Names as Python spells them, in the order of the enumeration.
WEEBILL_API const std::vector<std::string>& activation_names();
/// Throws ValueError("<op>: <argument> must be one of ..., got ...") for an unknown name.
WEEBILL_API Activation parse_activation(const std::string& op, const std::string& argument,
                                        const std::string& name);

/// A tensor of logical shape (n, c, h, w); strides in elements, any order, not negative.
template <typename T>
struct TensorViewOf {
  const T* data = nullptr;
  std::int64_t n = 0, c = 0, h = 0, w = 0;
  std::int64_t stride_n = 0, stride_c = 0, stride_h = 0, stride_w = 0;
};
using TensorView = TensorViewOf<float>;
using HalfTensorView = TensorViewOf<Half>;

struct Shape {
  std::int64_t n = 0, c = 0, h = 0, w = 0;
};

/// A plain weight, C-contiguous as torch has it, with its shape for the checks.
/// `data == nullptr` means that the argument was not given.
struct Weight {
  const float* data = nullptr;
  std::vector<std::int64_t> shape;
  explicit operator bool() const { return data != nullptr; }
};

/// Sliding window. `same` is TensorFlow's SAME: output = ceil(input / stride), the padding is
/// computed from the input, the odd pixel goes to the bottom and right, and pad_* are ignored.
struct Window {
  std::int32_t kernel_h = 1, kernel_w = 1;
  std::int32_t stride_h = 1, stride_w = 1;
  std::int32_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  std::int32_t dilation_h = 1, dilation_w = 1;
  std::int32_t same = 0;
};

/// y = activation(conv(x, weight) + bias). weight (c_out, c_in / groups, kernel_h, kernel_w).
/// Depthwise (groups == c_in == c_out) and 1 x 1 with groups == 1 take their own kernels.
struct Conv2dSpec {
  std::string op = "conv2d";  ///< name used in messages
  Weight weight, bias;
  Window window;  ///< kernel_h, kernel_w are taken from the weight
  std::int64_t groups = 1;
  Activation activation = Activation::kNone;
};

/// y = [x +] act_p(Wp * (se(d) o d) + bp), d = act_d(depthwise(act_e(We * x + be)) + bd),
/// se(d) = gate(Ws2 * act_s(Ws1 * mean(d) + bs1) + bs2). The expansion, SE, the projection and
/// the residual are optional; the depthwise part is not.
struct SeparableSpec {
  std::string op = "inverted_residual";
  Weight expand_weight, expand_bias;        ///< (c_mid, c_in, 1, 1), (c_mid)
  Weight depthwise_weight, depthwise_bias;  ///< (c_mid, 1, kh, kw), (c_mid)
  Weight se_reduce_weight, se_reduce_bias;  ///< (c_se, c_mid, 1, 1), (c_se)
  Weight se_expand_weight, se_expand_bias;  ///< (c_mid, c_se, 1, 1), (c_mid)
  Weight project_weight, project_bias;      ///< (c_out, c_mid, 1, 1), (c_out)
  Window window;
  Activation expand_activation = Activation::kNone;
  Activation depthwise_activation = Activation::kNone;
  Activation se_activation = Activation::kRelu;
  Activation se_gate = Activation::kHardsigmoid;
  Activation project_activation = Activation::kNone;
  bool residual = false;
};

/// y = x o gate(W2 * act(W1 * mean(x) + b1) + b2).
struct SqueezeExciteSpec {
  std::string op = "squeeze_excite";
  Weight reduce_weight, reduce_bias, expand_weight, expand_bias;
  Activation activation = Activation::kRelu;
  Activation gate = Activation::kHardsigmoid;
};

/// y[n,c,0,0] = mean over h, w of x.
struct GlobalPoolSpec {
  std::string op = "global_avg_pool2d";
  std::int64_t channels = 0;
};

/// y[n,c,i,j] = max over the window of x; positions in the padding don't count.
struct MaxPoolSpec {
  std::string op = "max_pool2d";
  std::int64_t channels = 0;
  Window window;  ///< the padding at most half of the kernel
};

/// y[n, i * groups + j] = x[n, j * (c / groups) + i].
struct ChannelShuffleSpec {
  std::string op = "channel_shuffle";
  std::int64_t channels = 0;
  std::int64_t groups = 1;
};

/// ShuffleNetV2's unit, all with groups = 2. Without a shortcut, x1 and x2 being the halves of x:
///   y = shuffle(concat(x1, branch(x2)))
/// and with one: y = shuffle(concat(shortcut(x), branch(x))). Both branches give as many channels.
struct ShuffleUnitSpec {
  std::string op = "shuffle_unit";
  SeparableSpec branch;
  SeparableSpec shortcut;  ///< absent without a depthwise_weight
};

/// ShuffleNetV1's unit: f = project(depthwise(shuffle(expand(x)))), and
///   kNone    y = act(f)
///   kAdd     y = act(x + f)
///   kConcat  y = act(concat(average_pool(x), f)), the pool with the depthwise window, its divisor
///            the window's size
struct ShuffleUnitV1Spec {
  enum class Shortcut { kNone, kAdd, kConcat };
  std::string op = "shuffle_unit_v1";
  Weight expand_weight, expand_bias;        ///< (c_mid, c_in / expand_groups, 1, 1), (c_mid)
  Weight depthwise_weight, depthwise_bias;  ///< (c_mid, 1, kh, kw), (c_mid)
  Weight project_weight, project_bias;      ///< (c_out, c_mid / project_groups, 1, 1), (c_out)
  Window window;
  std::int64_t expand_groups = 1, shuffle_groups = 1, project_groups = 1;
  Activation expand_activation = Activation::kRelu;
  Activation depthwise_activation = Activation::kNone;
  Activation activation = Activation::kRelu;
  Shortcut shortcut = Shortcut::kNone;
};

/// What the address of records must be a multiple of: what malloc gives, and compiled packages of
/// torch their constants. At multiples of 64, as pack() and torch's tensors have it, no load of
/// weights crosses a cache line.
constexpr std::size_t kRecordAlignment = 16;

/// One or more records, concatenated; each record's size is a multiple of 64 bytes.
struct Packed {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// Gives the memory for a record of so many bytes, at a multiple of kRecordAlignment.
using Allocate = std::function<std::byte*(std::size_t bytes)>;

/// Each checks its spec (ValueError), asks once for memory, and writes every byte of the record.
WEEBILL_API void pack(const Conv2dSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const SeparableSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const SqueezeExciteSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const GlobalPoolSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const MaxPoolSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const ChannelShuffleSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const ShuffleUnitSpec& spec, const Allocate& allocate);
WEEBILL_API void pack(const ShuffleUnitV1Spec& spec, const Allocate& allocate);
/// As pack(ShuffleUnitSpec), from the records of the branches; no shortcut if that is empty.
WEEBILL_API void pack_shuffle_unit(Packed branch, Packed shortcut, const Allocate& allocate);

/// The record in a vector of its own.
template <typename Spec>
std::vector<std::byte> pack(const Spec& spec) {
  std::vector<std::byte> record;
  pack(spec, [&record](std::size_t bytes) {
    record.resize(bytes);
    return record.data();
  });
  return record;
}

/// Validates the records against each other and against x, and returns the output's shape.
/// Throws ValueError for a blob that is truncated, of another version, or does not fit x.
WEEBILL_API Shape output_shape(const std::string& op, const Shape& x, Packed records);

/// Six numbers per record, from which tracing computes output shapes without the weights:
/// c_out, stride_h, stride_w, extra_h, extra_w, mode. Mode 0: h' = (h + extra_h) / stride_h + 1
/// with extra = padding - dilation * (kernel - 1) - 1; mode 1 (SAME): h' = ceil(h / stride_h);
/// mode 2 (global pool): h' = w' = 1.
WEEBILL_API std::vector<std::int64_t> geometry(Packed records);

/// Runs the records on x. y is dense NHWC (torch's channels_last) of output_shape() and must not
/// overlap x. Any x strides are accepted; dense NHWC is used as it is, and so are some channels of
/// it by a leading pointwise or separable record, any layout by a conv2d; the rest costs one copy.
///
/// Records of float16 (to_float16) are computed in float16: x is rounded to it first, and y is what
/// was computed. Throws NotSupported where the instruction set in use has no float16 arithmetic.
WEEBILL_API void run(const std::string& op, const TensorView& x, Packed records, float* y);
/// The same; `output` gives the memory for y of this shape, so that the records are read once.
using Output = std::function<float*(const Shape& shape)>;
WEEBILL_API void run(const std::string& op, const TensorView& x, Packed records,
                     const Output& output);
/// The same for records of float16 alone.
WEEBILL_API void run(const std::string& op, const HalfTensorView& x, Packed records, Half* y);

/// The records with their weights and biases rounded to float16. All else is as it was; records
/// that are float16 already are copied. Throws ValueError for a finite weight beyond 65504.
WEEBILL_API void to_float16(Packed records, const Allocate& allocate);
/// Whether all of the records are of float16; throws ValueError where only some are.
WEEBILL_API bool is_float16(const std::string& op, Packed records);
/// Whether run() takes them: the instruction set in use has float16 arithmetic.
WEEBILL_API bool has_float16();

/// Elements of any type, 1, 2, 4, 8 or 16 bytes each; strides in elements, as in TensorView.
struct AnyTensorView {
  const void* data = nullptr;
  std::int64_t element_bytes = 0;
  std::int64_t n = 0, c = 0, h = 0, w = 0;
  std::int64_t stride_n = 0, stride_c = 0, stride_h = 0, stride_w = 0;
};

/// y[n, i * groups + j] = x[n, j * (c / groups) + i] for elements of any type. y is dense, NHWC or
/// NCHW, and must not overlap x. An x of the same layout costs no more than a copy.
WEEBILL_API void channel_shuffle(const AnyTensorView& x, std::int64_t groups, bool nhwc, void* y);

/// What a backward computes: null pointers are not wanted. `input` is dense NHWC, the others as
/// their weights are.
struct ConvolutionGradients {
  float* input = nullptr;
  float* weight = nullptr;
  float* bias = nullptr;
  std::int64_t input_stride = 0;  ///< from pixel to pixel, of a pointwise convolution; 0: dense
};

/// Gradients of a depthwise convolution (c_out == c_in) without activation, given dy, the gradient
/// of its output. The window's kernel size is taken from the weight. Any strides are accepted; what
/// is not dense NHWC costs one copy. Throws ValueError where the shapes do not fit, NotSupported
/// for more than one filter per channel.
WEEBILL_API void depthwise_conv2d_backward(const TensorView& dy, const TensorView& x,
                                           const Weight& weight, Window window,
                                           const ConvolutionGradients& wanted);

/// The same of a pointwise convolution, weight (c_out, c_in, 1, 1).
WEEBILL_API void pointwise_conv2d_backward(const TensorView& dy, const TensorView& x,
                                           const Weight& weight,
                                           const ConvolutionGradients& wanted);

/// y = activation((x - mean) / sqrt(var + eps) * weight + bias), with the mean and the (biased)
/// variance of each channel over the images and pixels of x: batch normalisation in training.
/// Without weight or bias these are 1 and 0, of shape (c,) otherwise.
struct BatchNormSpec {
  Weight weight, bias;
  double eps = 1e-5;
  Activation activation = Activation::kNone;
};

/// y is dense NHWC; mean and var have an element per channel. Any strides of x are accepted; what
/// is not dense NHWC costs one copy. Throws ValueError where the shapes do not fit.
WEEBILL_API void batch_norm_activation(const TensorView& x, const BatchNormSpec& spec, float* y,
                                       float* mean, float* var);

/// Gradients by x, weight and bias, given dy, the gradient of y; mean and var are those of x.
WEEBILL_API void batch_norm_activation_backward(const TensorView& dy, const TensorView& x,
                                                const BatchNormSpec& spec, const float* mean,
                                                const float* var,
                                                const ConvolutionGradients& wanted);

/// Values that are normalised where they are read: activation((x - mean) * scale + shift), each of
/// these an element per channel. Without mean x is taken as it is.
struct Normalization {
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;
  Activation activation = Activation::kNone;
};

/// z = convolution(x), and what turns z into batch_norm_activation(z). The convolution is depthwise
/// with one filter per channel, or 1 x 1 with stride 1, and has no bias. x is normalised first
/// where `input` says so: a network's layers pass each other what they have computed and its
/// statistics, and nothing is written twice.
struct NormalizedConvolutionSpec {
  std::string op = "normalized_convolution";
  Weight weight;  ///< (c, 1, kh, kw), or (c_out, c_in, 1, 1)
  Window window;  ///< kernel_h, kernel_w are taken from the weight
  Normalization input;
  BatchNormSpec norm;
};

/// Rows of `statistics`, each of c_out elements; scale = weight / sqrt(var + eps), shift = bias.
enum StatisticsRow { kMeanRow, kVarRow, kScaleRow, kShiftRow, kStatisticsRows };

WEEBILL_API Normalization normalization_of(const float* statistics, std::int64_t channels,
                                           Activation activation);

/// Checks the spec; the shape of z.
WEEBILL_API Shape normalized_convolution_output(const NormalizedConvolutionSpec& spec,
                                                const Shape& x);

/// z is dense NHWC. Any strides of x are accepted; what has not its channels side by side costs one
/// copy.
WEEBILL_API void normalized_convolution(const TensorView& x, const NormalizedConvolutionSpec& spec,
                                        float* z, float* statistics);

/// What normalized_convolution_backward() computes; null pointers are not wanted.
struct NormalizedGradients {
  ConvolutionGradients convolution;  ///< by the normalised x, and by the weight
  float *norm_weight = nullptr, *norm_bias = nullptr;
  double* input_sums = nullptr;  ///< as normalize_sums() of x and its gradient; 2 * c_in
};

/// `dy` is the gradient of activation(norm(z)), dense NHWC as z; `sums` are normalize_sums() of
/// both. An x with a normalisation is dense NHWC too.
WEEBILL_API void normalized_convolution_backward(const float* dy, const float* z,
                                                 const float* statistics, const double* sums,
                                                 const TensorView& x,
                                                 const NormalizedConvolutionSpec& spec,
                                                 const NormalizedGradients& wanted);

/// y = the normalised z, both dense: pixels of `channels`.
WEEBILL_API void normalize(const float* z, std::int64_t pixels, std::int64_t channels,
                           const Normalization& normal, float* y);

/// Sums over all pixels that the backward of a normalisation begins with, for each channel:
///   sums[c] = sum g,  sums[channels + c] = sum g * (z - mean),  g = activation'(...) * dy
WEEBILL_API void normalize_sums(const float* dy, const float* z, std::int64_t pixels,
                                std::int64_t channels, const Normalization& normal, double* sums);

/// Pixels that follow one another at `stride` elements, the channels of each side by side.
template <typename T>
struct PixelsOf {
  T* data = nullptr;
  std::int64_t stride = 0, pixels = 0, channels = 0;
};
using StridedPixels = PixelsOf<const float>;
using MutablePixels = PixelsOf<float>;

/// y[p, 2 i] = first[p, i],  y[p, 2 i + 1] = the normalised z[p, i]; z and y are dense.
WEEBILL_API void normalize_shuffle(const StridedPixels& first, const float* z,
                                   const Normalization& normal, float* y);

/// first[p, i] = y[p, 2 i],  second[p, i] = y[p, 2 i + 1]; y and second are dense.
WEEBILL_API void unshuffle(const float* y, const MutablePixels& first, float* second);

/// What squeeze-and-excitation is made of; x, y and dy dense NHWC, the others (n, c).
///   means[n, c] = mean_p x[n, p, c],  dots[n, c] = sum_p dy[n, p, c] * x[n, p, c]
///   y[n, p, c] = x[n, p, c] * scale[n, c] (+ shift[n, c] if given)
WEEBILL_API void channel_means(const float* x, const Shape& shape, float* means);
WEEBILL_API void channel_dots(const float* dy, const float* x, const Shape& shape, float* dots);
WEEBILL_API void scale_channels(const float* x, const Shape& shape, const float* scale,
                                const float* shift, float* y);

/// Everything about one block that `run` would decide for this input: text, one line per record.
/// The reasons of the fusion rule are part of it.
WEEBILL_API std::string explain(const Shape& x, Packed records, int threads);

/// Multiply-adds of the records on this input.
WEEBILL_API std::int64_t multiply_adds(const Shape& x, Packed records);

}  // namespace weebill
