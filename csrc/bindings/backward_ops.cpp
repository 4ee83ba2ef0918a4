// What training adds to the ops: `torch.ops.weebill.*_backward`, gradients by input, weight and
// bias, and batch normalisation with batch statistics. A gradient that `output_mask` leaves out is
// an empty tensor of shape (0,).
#include "bindings/backward_ops.h"

#include <array>

#include "bindings/arguments.h"
#include "core/weebill.h"

namespace weebill::bindings {
namespace {

TensorHandle image_like(const TensorView& x) {
  return empty_tensor<4>({x.n, x.c, x.h, x.w}, {x.h * x.w * x.c, 1, x.w * x.c, x.c});
}

/// The three results of a backward, made where they are wanted.
class Gradients {
 public:
  Gradients(const std::string& op, const std::vector<bool>& mask, const TensorView& x,
            const Weight& weight) {
    check(mask.size() == 3, op, ": output_mask must have 3 entries, got ", mask.size());
    check(weight.shape.size() == 4, op, ": weight must have 4 dimensions, got ",
          weight.shape.size());
    const std::int64_t taps = weight.shape[2] * weight.shape[3];
    const std::int64_t filter = weight.shape[1] * taps;
    const auto none = [] { return empty_tensor<1>({0}, {1}); };
    tensors[0] = mask[0] ? image_like(x) : none();
    tensors[1] = mask[1] ? empty_tensor<4>(
                               {weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]},
                               {filter, taps, weight.shape[3], 1})
                         : none();
    tensors[2] = mask[2] ? empty_tensor<1>({weight.shape[0]}, {1}) : none();
    wanted.input = mask[0] ? float_data(tensors[0]) : nullptr;
    wanted.weight = mask[1] ? float_data(tensors[1]) : nullptr;
    wanted.bias = mask[2] ? float_data(tensors[2]) : nullptr;
  }

  std::array<TensorHandle, 3> tensors;
  ConvolutionGradients wanted;
};

std::array<TensorHandle, 3> depthwise_conv2d_backward_kernel(Arguments arguments) {
  static const std::string op = "depthwise_conv2d_backward";
  const TensorHandle grad_output = arguments.tensor();
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  const auto stride = arguments.integers();
  const auto padding = arguments.integers();
  const auto dilation = arguments.integers();
  const auto mask = arguments.booleans();
  const TensorView dy = input_view(op, grad_output, "grad_output");
  const TensorView view = input_view(op, x);
  const Weight filters = weight.view(op, "weight");
  const Window window = window_of(op, stride, padding, dilation);
  Gradients gradients(op, mask, view, filters);
  depthwise_conv2d_backward(dy, view, filters, window, gradients.wanted);
  return std::move(gradients.tensors);
}

std::array<TensorHandle, 3> pointwise_conv2d_backward_kernel(Arguments arguments) {
  static const std::string op = "pointwise_conv2d_backward";
  const TensorHandle grad_output = arguments.tensor();
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  const auto mask = arguments.booleans();
  const TensorView dy = input_view(op, grad_output, "grad_output");
  const TensorView view = input_view(op, x);
  const Weight filters = weight.view(op, "weight");
  Gradients gradients(op, mask, view, filters);
  pointwise_conv2d_backward(dy, view, filters, gradients.wanted);
  return std::move(gradients.tensors);
}

std::array<TensorHandle, 3> batch_norm_activation_kernel(Arguments arguments) {
  static const std::string op = "batch_norm_activation";
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.optional_tensor());
  WeightArgument bias(arguments.optional_tensor());
  BatchNormSpec spec;
  spec.eps = arguments.real();
  const std::string activation = arguments.string();
  const TensorView view = input_view(op, x);
  spec.weight = weight.view(op, "weight");
  spec.bias = bias.view(op, "bias");
  spec.activation = parse_activation(op, "activation", activation);
  std::array<TensorHandle, 3> results = {image_like(view), empty_tensor<1>({view.c}, {1}),
                                         empty_tensor<1>({view.c}, {1})};
  batch_norm_activation(view, spec, float_data(results[0]), float_data(results[1]),
                        float_data(results[2]));
  return results;
}

std::array<TensorHandle, 3> batch_norm_activation_backward_kernel(Arguments arguments) {
  static const std::string op = "batch_norm_activation_backward";
  const TensorHandle grad_output = arguments.tensor();
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.optional_tensor());
  WeightArgument bias(arguments.optional_tensor());
  WeightArgument mean(arguments.tensor());
  WeightArgument var(arguments.tensor());
  BatchNormSpec spec;
  spec.eps = arguments.real();
  const std::string activation = arguments.string();
  const auto mask = arguments.booleans();
  const TensorView dy = input_view(op, grad_output, "grad_output");
  const TensorView view = input_view(op, x);
  spec.weight = weight.view(op, "weight");
  spec.bias = bias.view(op, "bias");
  spec.activation = parse_activation(op, "activation", activation);
  const Weight mean_view = mean.view(op, "mean"), var_view = var.view(op, "var");
  for (const auto& [name, statistic] : {std::pair("mean", &mean_view), {"var", &var_view}}) {
    check(statistic->shape.size() == 1 && statistic->shape[0] == view.c, op, ": ", name,
          " must have shape (", view.c, ",) for x with ", view.c, " channels");
  }
  check(mask.size() == 3, op, ": output_mask must have 3 entries, got ", mask.size());
  std::array<TensorHandle, 3> results = {mask[0] ? image_like(view) : empty_tensor<1>({0}, {1}),
                                         empty_tensor<1>({mask[1] ? view.c : 0}, {1}),
                                         empty_tensor<1>({mask[2] ? view.c : 0}, {1})};
  const ConvolutionGradients wanted = {mask[0] ? float_data(results[0]) : nullptr,
                                       mask[1] ? float_data(results[1]) : nullptr,
                                       mask[2] ? float_data(results[2]) : nullptr};
  batch_norm_activation_backward(dy, view, spec, mean_view.data, var_view.data, wanted);
  return results;
}

template <std::array<TensorHandle, 3> (*kernel)(Arguments)>
void boxed_three(StableIValue* stack, std::uint64_t, std::uint64_t) {
  translated([stack] {
    std::array<TensorHandle, 3> results = kernel(Arguments(stack));
    for (std::size_t i = 0; i < 3; ++i) {
      stack[i] = torch::stable::detail::from(results[i].release());
    }
  });
}

}  // namespace

void define_backward_ops(torch::stable::detail::StableLibrary& m) {
  m.def(
      "depthwise_conv2d_backward(Tensor grad_output, Tensor x, Tensor weight, int[] stride, "
      "int[] padding, int[] dilation, bool[] output_mask) -> (Tensor, Tensor, Tensor)");
  m.def(
      "pointwise_conv2d_backward(Tensor grad_output, Tensor x, Tensor weight, bool[] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_activation(Tensor x, Tensor? weight, Tensor? bias, float eps, str activation) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_activation_backward(Tensor grad_output, Tensor x, Tensor? weight, Tensor? bias, "
      "Tensor mean, Tensor var, float eps, str activation, bool[] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
}

void implement_backward_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("depthwise_conv2d_backward", &boxed_three<depthwise_conv2d_backward_kernel>);
  m.impl("pointwise_conv2d_backward", &boxed_three<pointwise_conv2d_backward_kernel>);
  m.impl("batch_norm_activation", &boxed_three<batch_norm_activation_kernel>);
  m.impl("batch_norm_activation_backward", &boxed_three<batch_norm_activation_backward_kernel>);
}

}  // namespace weebill::bindings
