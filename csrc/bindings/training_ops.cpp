// What the layers of a network in training run on (weebill.nn's `_nodes`): `torch.ops.weebill.
// normalized_convolution` and its like. They have no gradients of their own; graphs that hold them
// know their results by the fake kernels of weebill._training_fake.
#include "bindings/training_ops.h"

#include <array>

#include "bindings/arguments.h"
#include "core/weebill.h"

namespace weebill::bindings {
namespace {

TensorHandle image_of(const Shape& s) {
  return empty_tensor<4>({s.n, s.c, s.h, s.w}, {s.h * s.w * s.c, 1, s.w * s.c, s.c});
}

TensorHandle nothing() { return empty_tensor<1>({0}, {1}); }

// x has the shape of y.
void check_shape_of(const std::string& op, const char* name, const TensorView& x,
                    const char* y_name, const TensorView& y) {
  check(x.n == y.n && x.c == y.c && x.h == y.h && x.w == y.w, op, ": ", name,
        " must have the shape of ", y_name, ", (", y.n, ", ", y.c, ", ", y.h, ", ", y.w, "), got (",
        x.n, ", ", x.c, ", ", x.h, ", ", x.w, ")");
}

/// A dense NHWC image, which is read as it lies.
TensorView dense_view(const std::string& op, const TensorHandle& x, const char* name) {
  const TensorView v = input_view(op, x, name);
  check(v.stride_c == 1 && v.stride_w == v.c && v.stride_h == v.w * v.c &&
            v.stride_n == v.h * v.w * v.c,
        op, ": ", name, " must be dense and channels_last");
  check(v.n * v.c * v.h * v.w > 0, op, ": ", name, " must not be empty, got (", v.n, ", ", v.c,
        ", ", v.h, ", ", v.w, ")");
  return v;
}

/// From one pixel to the next, where they follow one another.
std::int64_t pixel_stride(const TensorView& v) {
  if (v.w > 1) return v.stride_w;
  if (v.h > 1) return v.stride_h;
  return v.n > 1 ? v.stride_n : v.c;
}

/// An image whose channels lie side by side and whose pixels follow one another: a whole one, or a
/// part of the channels of one.
TensorView pixels_view(const std::string& op, const TensorHandle& x, const char* name) {
  const TensorView v = input_view(op, x, name);
  check(v.n * v.c * v.h * v.w > 0, op, ": ", name, " must not be empty, got (", v.n, ", ", v.c,
        ", ", v.h, ", ", v.w, ")");
  check(v.stride_c == 1 && (v.h == 1 || v.stride_h == v.w * pixel_stride(v)) &&
            (v.n == 1 || v.stride_n == v.h * v.w * pixel_stride(v)),
        op, ": ", name, " must be channels of a dense channels_last tensor");
  return v;
}

/// Rows of StatisticsRow for so many channels; no data for None.
const float* statistics_of(const std::string& op, const char* name, const Weight& rows,
                           std::int64_t channels) {
  check(!rows || (rows.shape.size() == 2 && rows.shape[0] == kStatisticsRows &&
                  rows.shape[1] == channels),
        op, ": ", name, " must be (", std::int64_t{kStatisticsRows}, ", ", channels, ") for ",
        channels, " channels");
  return rows.data;
}

const double* sums_of(const std::string& op, const TensorHandle& sums, std::int64_t channels) {
  const TensorInfo info = tensor_info(op, "sums", sums);
  check(info.dtype == aoti_torch_dtype_float64() && info.dim == 2 && info.sizes[0] == 2 &&
            info.sizes[1] == channels && info.strides[1] == 1 && info.strides[0] == channels,
        op, ": sums must be (2, ", channels, "), float64");
  return static_cast<const double*>(info.data);
}

/// The arguments that say what a layer is; `settle` checks them, when all have been read.
class Layer {
 public:
  Layer(std::string op, Arguments& a)
      : x(a.tensor()),
        op_(std::move(op)),
        input_statistics_(a.optional_tensor()),
        input_activation_(a.string()),
        weight_(a.tensor()),
        norm_weight_(a.optional_tensor()),
        norm_bias_(a.optional_tensor()),
        eps_(a.real()),
        activation_(a.string()),
        stride_(a.integers()),
        padding_(a.integers()),
        dilation_(a.integers()) {}

  void settle() {
    view = input_view(op_, x);
    spec.op = op_;
    spec.weight = weight_.view(op_, "weight");
    spec.window = window_of(op_, stride_, padding_, dilation_);
    spec.norm.weight = norm_weight_.view(op_, "norm_weight");
    spec.norm.bias = norm_bias_.view(op_, "norm_bias");
    spec.norm.eps = eps_;
    spec.norm.activation = parse_activation(op_, "activation", activation_);
    const Activation input = parse_activation(op_, "input_activation", input_activation_);
    input_rows_ = input_statistics_.view(op_, "input_statistics");
    const float* rows = statistics_of(op_, "input_statistics", input_rows_, view.c);
    if (rows != nullptr) {
      dense_view(op_, x, "x with input_statistics");
      spec.input = normalization_of(rows, view.c, input);
    }
    out = normalized_convolution_output(spec, {view.n, view.c, view.h, view.w});
  }

  TensorHandle x;
  TensorView view;
  NormalizedConvolutionSpec spec;
  Shape out;

 private:
  std::string op_;
  WeightArgument input_statistics_;
  std::string input_activation_;
  WeightArgument weight_, norm_weight_, norm_bias_;
  double eps_;
  std::string activation_;
  std::vector<std::int64_t> stride_, padding_, dilation_;
  Weight input_rows_;
};

void normalized_convolution_kernel(StableIValue* stack) {
  Arguments arguments(stack);
  Layer layer("normalized_convolution", arguments);
  layer.settle();
  TensorHandle z = image_of(layer.out);
  TensorHandle statistics = empty_tensor<2>({kStatisticsRows, layer.out.c}, {layer.out.c, 1});
  normalized_convolution(layer.view, layer.spec, float_data(z), float_data(statistics));
  stack[0] = torch::stable::detail::from(z.release());
  stack[1] = torch::stable::detail::from(statistics.release());
}

void normalized_convolution_backward_kernel(StableIValue* stack) {
  static const std::string op = "normalized_convolution_backward";
  Arguments arguments(stack);
  const TensorHandle grad_output = arguments.tensor();
  const TensorHandle output = arguments.tensor();
  WeightArgument statistics(arguments.tensor());
  const TensorHandle sums = arguments.tensor();
  Layer layer(op, arguments);
  const auto mask = arguments.booleans();
  const TensorHandle into = arguments.optional_tensor();
  layer.settle();
  const Shape& out = layer.out;
  const TensorView dy = dense_view(op, grad_output, "grad_output");
  const TensorView z = dense_view(op, output, "z");
  for (const auto& [name, v] : {std::pair("grad_output", &dy), {"z", &z}}) {
    check(v->n == out.n && v->c == out.c && v->h == out.h && v->w == out.w, op, ": ", name,
          " must be (", out.n, ", ", out.c, ", ", out.h, ", ", out.w, "), got (", v->n, ", ", v->c,
          ", ", v->h, ", ", v->w, ")");
  }
  check(mask.size() == 4, op, ": output_mask must have 4 entries, got ", mask.size());
  const Weight rows = statistics.view(op, "statistics");
  const auto& filter = layer.spec.weight.shape;
  const std::int64_t taps = filter[2] * filter[3];
  const bool wants_sums = mask[0] && layer.spec.input.mean != nullptr;
  const TensorView& x = layer.view;
  MutablePixels input;
  if (into) {
    const TensorView place = pixels_view(op, into, "grad_input");
    check(mask[0] && place.n == x.n && place.c == x.c && place.h == x.h && place.w == x.w, op,
          ": grad_input must have the shape of x, and be wanted");
    check(filter[2] * filter[3] == 1, op, ": grad_input must not be given but for 1 x 1");
    input = {static_cast<float*>(data_of(into)), pixel_stride(place)};
  }
  std::array<TensorHandle, 5> results = {
      mask[0] && !into ? image_of({x.n, x.c, x.h, x.w}) : nothing(),
      mask[1] ? empty_tensor<4>({filter[0], filter[1], filter[2], filter[3]},
                                {filter[1] * taps, taps, filter[3], 1})
              : nothing(),
      empty_tensor<1>({mask[2] ? out.c : 0}, {1}), empty_tensor<1>({mask[3] ? out.c : 0}, {1}),
      wants_sums ? empty_tensor<2>({2, x.c}, {x.c, 1}, aoti_torch_dtype_float64()) : nothing()};
  NormalizedGradients wanted;
  wanted.convolution.input = input.data;
  wanted.convolution.input_stride = input.stride;
  if (mask[0] && !into) wanted.convolution.input = float_data(results[0]);
  wanted.convolution.weight = mask[1] ? float_data(results[1]) : nullptr;
  wanted.norm_weight = mask[2] ? float_data(results[2]) : nullptr;
  wanted.norm_bias = mask[3] ? float_data(results[3]) : nullptr;
  wanted.input_sums = wants_sums ? static_cast<double*>(data_of(results[4])) : nullptr;
  normalized_convolution_backward(dy.data, z.data, statistics_of(op, "statistics", rows, out.c),
                                  sums_of(op, sums, out.c), x, layer.spec, wanted);
  for (std::size_t i = 0; i < results.size(); ++i) {
    stack[i] = torch::stable::detail::from(results[i].release());
  }
}

/// What a normalisation of z is called with.
struct Normalized {
  TensorHandle tensor;
  WeightArgument statistics;
  std::string activation;

  explicit Normalized(Arguments& a)
      : tensor(a.tensor()), statistics(a.tensor()), activation(a.string()) {}

  Normalization settle(const std::string& op) {
    z = dense_view(op, tensor, "z");
    rows = statistics.view(op, "statistics");
    return normalization_of(statistics_of(op, "statistics", rows, z.c), z.c,
                            parse_activation(op, "activation", activation));
  }

  TensorView z;
  Weight rows;
};

TensorHandle normalize_kernel(Arguments arguments) {
  Normalized values(arguments);
  const Normalization normal = values.settle("normalize");
  const TensorView& z = values.z;
  TensorHandle y = image_of({z.n, z.c, z.h, z.w});
  normalize(z.data, z.n * z.h * z.w, z.c, normal, float_data(y));
  return y;
}

TensorHandle normalize_sums_kernel(Arguments arguments) {
  static const std::string op = "normalize_sums";
  const TensorHandle grad_output = arguments.tensor();
  Normalized values(arguments);
  const TensorView dy = dense_view(op, grad_output, "grad_output");
  const Normalization normal = values.settle(op);
  const TensorView& z = values.z;
  check_shape_of(op, "grad_output", dy, "z", z);
  TensorHandle sums = empty_tensor<2>({2, z.c}, {z.c, 1}, aoti_torch_dtype_float64());
  normalize_sums(dy.data, z.data, z.n * z.h * z.w, z.c, normal,
                 static_cast<double*>(data_of(sums)));
  return sums;
}

TensorHandle normalize_shuffle_kernel(Arguments arguments) {
  static const std::string op = "normalize_shuffle";
  const TensorHandle first = arguments.tensor();
  Normalized values(arguments);
  const TensorView view = pixels_view(op, first, "first");
  const Normalization normal = values.settle(op);
  const TensorView& z = values.z;
  check_shape_of(op, "first", view, "z", z);
  TensorHandle y = image_of({z.n, 2 * z.c, z.h, z.w});
  normalize_shuffle({view.data, pixel_stride(view), z.n * z.h * z.w, z.c}, z.data, normal,
                    float_data(y));
  return y;
}

TensorHandle unshuffle_kernel(Arguments arguments) {
  static const std::string op = "unshuffle";
  const TensorHandle shuffled = arguments.tensor();
  const TensorHandle first = arguments.tensor();
  const TensorView y = dense_view(op, shuffled, "y");
  const TensorView view = pixels_view(op, first, "first");
  check(view.n == y.n && 2 * view.c == y.c && view.h == y.h && view.w == y.w, op,
        ": first must have half of the channels of y, (", y.n, ", ", y.c, ", ", y.h, ", ", y.w,
        "), got (", view.n, ", ", view.c, ", ", view.h, ", ", view.w, ")");
  TensorHandle second = image_of({y.n, view.c, y.h, y.w});
  unshuffle(y.data,
            {static_cast<float*>(data_of(first)), pixel_stride(view), y.n * y.h * y.w, view.c},
            float_data(second));
  return second;
}

Shape shape_of(const TensorView& v) { return {v.n, v.c, v.h, v.w}; }

/// A number per image and channel of x; no data for None.
const float* per_image(const std::string& op, const char* name, const Weight& values,
                       const TensorView& x) {
  check(!values || (values.shape.size() == 2 && values.shape[0] == x.n && values.shape[1] == x.c),
        op, ": ", name, " must be (", x.n, ", ", x.c, ") for x with ", x.n, " images and ", x.c,
        " channels");
  return values.data;
}

TensorHandle channel_means_kernel(Arguments arguments) {
  const TensorHandle input = arguments.tensor();
  const TensorView x = dense_view("channel_means", input, "x");
  TensorHandle means = empty_tensor<2>({x.n, x.c}, {x.c, 1});
  channel_means(x.data, shape_of(x), float_data(means));
  return means;
}

TensorHandle channel_dots_kernel(Arguments arguments) {
  static const std::string op = "channel_dots";
  const TensorHandle grad_output = arguments.tensor();
  const TensorHandle input = arguments.tensor();
  const TensorView dy = dense_view(op, grad_output, "grad_output");
  const TensorView x = dense_view(op, input, "x");
  check_shape_of(op, "grad_output", dy, "x", x);
  TensorHandle dots = empty_tensor<2>({x.n, x.c}, {x.c, 1});
  channel_dots(dy.data, x.data, shape_of(x), float_data(dots));
  return dots;
}

TensorHandle scale_channels_kernel(Arguments arguments) {
  static const std::string op = "scale_channels";
  const TensorHandle input = arguments.tensor();
  WeightArgument scale(arguments.tensor());
  WeightArgument shift(arguments.optional_tensor());
  const TensorView x = dense_view(op, input, "x");
  const Weight scales = scale.view(op, "scale"), shifts = shift.view(op, "shift");
  TensorHandle y = image_of(shape_of(x));
  scale_channels(x.data, shape_of(x), per_image(op, "scale", scales, x),
                 per_image(op, "shift", shifts, x), float_data(y));
  return y;
}

template <void (*kernel)(StableIValue*)>
void boxed_several(StableIValue* stack, std::uint64_t, std::uint64_t) {
  translated([stack] { kernel(stack); });
}

}  // namespace

void define_training_ops(torch::stable::detail::StableLibrary& m) {
  m.def(
      "normalized_convolution(Tensor x, Tensor? input_statistics, str input_activation, "
      "Tensor weight, Tensor? norm_weight, Tensor? norm_bias, float eps, str activation, "
      "int[] stride, int[] padding, int[] dilation) -> (Tensor, Tensor)");
  m.def(
      "normalized_convolution_backward(Tensor grad_output, Tensor z, Tensor statistics, "
      "Tensor sums, Tensor x, Tensor? input_statistics, str input_activation, Tensor weight, "
      "Tensor? norm_weight, Tensor? norm_bias, float eps, str activation, int[] stride, "
      "int[] padding, int[] dilation, bool[] output_mask, Tensor(a!)? grad_input=None) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("normalize_shuffle(Tensor first, Tensor z, Tensor statistics, str activation) -> Tensor");
  m.def("channel_means(Tensor x) -> Tensor");
  m.def("channel_dots(Tensor grad_output, Tensor x) -> Tensor");
  m.def("scale_channels(Tensor x, Tensor scale, Tensor? shift) -> Tensor");
  m.def("unshuffle(Tensor y, Tensor(a!) first) -> Tensor");
  m.def("normalize(Tensor z, Tensor statistics, str activation) -> Tensor");
  m.def(
      "normalize_sums(Tensor grad_output, Tensor z, Tensor statistics, str activation) -> Tensor");
}

void implement_training_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("normalized_convolution", &boxed_several<normalized_convolution_kernel>);
  m.impl("normalized_convolution_backward", &boxed_several<normalized_convolution_backward_kernel>);
  m.impl("normalize_shuffle", &boxed<normalize_shuffle_kernel>);
  m.impl("channel_means", &boxed<channel_means_kernel>);
  m.impl("channel_dots", &boxed<channel_dots_kernel>);
  m.impl("scale_channels", &boxed<scale_channels_kernel>);
  m.impl("unshuffle", &boxed<unshuffle_kernel>);
  m.impl("normalize", &boxed<normalize_kernel>);
  m.impl("normalize_sums", &boxed<normalize_sums_kernel>);
}

}  // namespace weebill::bindings
