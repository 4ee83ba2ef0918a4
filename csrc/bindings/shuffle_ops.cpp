#include "bindings/shuffle_ops.h"

#include <algorithm>
#include <array>

#include "bindings/arguments.h"
#include "bindings/records.h"
#include "core/weebill.h"

namespace weebill::bindings {
namespace {

/// Any dtype, and the memory format of x: channels_last where the channels lie next to each other.
TensorHandle channel_shuffle_kernel(Arguments arguments) {
  static const std::string op = "channel_shuffle";
  const TensorHandle x = arguments.tensor();
  const std::int64_t groups = arguments.integer();
  const TensorInfo info = tensor_info(op, "x", x);
  check(info.dim == 4, op, ": x must have 4 dimensions (n, c, h, w), got ", info.dim);
  const std::int64_t *s = info.sizes, *strides = info.strides;
  const bool nhwc = s[1] > 1 && strides[1] == 1;
  auto at_least_1 = [](std::int64_t size) { return std::max<std::int64_t>(size, 1); };
  const std::int64_t row = at_least_1(s[3]), plane = row * at_least_1(s[2]);
  const std::array<std::int64_t, 4> y_strides =
      nhwc ? std::array<std::int64_t, 4>{s[1] * s[3] * s[2], 1, s[1] * s[3], s[1]}
           : std::array<std::int64_t, 4>{plane * at_least_1(s[1]), plane, row, 1};
  TensorHandle y = empty_tensor<4>({s[0], s[1], s[2], s[3]}, y_strides, info.dtype);
  AnyTensorView view;
  view.data = info.data;
  view.element_bytes = static_cast<std::int64_t>(aoti_torch_dtype_element_size(info.dtype));
  view.n = s[0];
  view.c = s[1];
  view.h = s[2];
  view.w = s[3];
  view.stride_n = strides[0];
  view.stride_c = strides[1];
  view.stride_h = strides[2];
  view.stride_w = strides[3];
  channel_shuffle(view, groups, nhwc, data_of(y));
  return y;
}

TensorHandle shuffle_unit_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  WeightArgument expand_weight(arguments.optional_tensor());
  WeightArgument expand_bias(arguments.optional_tensor());
  WeightArgument depthwise_weight(arguments.tensor());
  WeightArgument depthwise_bias(arguments.optional_tensor());
  WeightArgument project_weight(arguments.tensor());
  WeightArgument project_bias(arguments.optional_tensor());
  WeightArgument shortcut_depthwise_weight(arguments.optional_tensor());
  WeightArgument shortcut_depthwise_bias(arguments.optional_tensor());
  WeightArgument shortcut_project_weight(arguments.optional_tensor());
  WeightArgument shortcut_project_bias(arguments.optional_tensor());
  const auto stride = arguments.integers();
  const auto padding = arguments.integers();
  const auto dilation = arguments.integers();
  const std::string expand_activation = arguments.string();
  const std::string depthwise_activation = arguments.string();
  const std::string project_activation = arguments.string();
  const std::string shortcut_depthwise_activation = arguments.string();
  const std::string shortcut_project_activation = arguments.string();
  ShuffleUnitSpec spec;
  const std::string& op = spec.op;
  const TensorView view = input_view(op, x);
  SeparableSpec& branch = spec.branch;
  branch.expand_weight = expand_weight.view(op, "expand_weight");
  branch.expand_bias = expand_bias.view(op, "expand_bias");
  branch.depthwise_weight = depthwise_weight.view(op, "depthwise_weight");
  branch.depthwise_bias = depthwise_bias.view(op, "depthwise_bias");
  branch.project_weight = project_weight.view(op, "project_weight");
  branch.project_bias = project_bias.view(op, "project_bias");
  branch.window = window_of(op, stride, padding, dilation);
  branch.expand_activation = parse_activation(op, "expand_activation", expand_activation);
  branch.depthwise_activation = parse_activation(op, "depthwise_activation", depthwise_activation);
  branch.project_activation = parse_activation(op, "project_activation", project_activation);
  SeparableSpec& shortcut = spec.shortcut;
  shortcut.depthwise_weight = shortcut_depthwise_weight.view(op, "shortcut_depthwise_weight");
  shortcut.depthwise_bias = shortcut_depthwise_bias.view(op, "shortcut_depthwise_bias");
  shortcut.project_weight = shortcut_project_weight.view(op, "shortcut_project_weight");
  shortcut.project_bias = shortcut_project_bias.view(op, "shortcut_project_bias");
  shortcut.window = branch.window;
  shortcut.depthwise_activation =
      parse_activation(op, "shortcut_depthwise_activation", shortcut_depthwise_activation);
  shortcut.project_activation =
      parse_activation(op, "shortcut_project_activation", shortcut_project_activation);
  return run_packed(op, view, pack(spec));
}

TensorHandle shuffle_unit_v1_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  WeightArgument expand_weight(arguments.tensor());
  WeightArgument expand_bias(arguments.optional_tensor());
  WeightArgument depthwise_weight(arguments.tensor());
  WeightArgument depthwise_bias(arguments.optional_tensor());
  WeightArgument project_weight(arguments.tensor());
  WeightArgument project_bias(arguments.optional_tensor());
  const auto stride = arguments.integers();
  const auto padding = arguments.integers();
  const auto dilation = arguments.integers();
  ShuffleUnitV1Spec spec;
  spec.expand_groups = arguments.integer();
  spec.shuffle_groups = arguments.integer();
  spec.project_groups = arguments.integer();
  const std::string expand_activation = arguments.string();
  const std::string depthwise_activation = arguments.string();
  const std::string activation = arguments.string();
  const std::string shortcut = arguments.string();
  const std::string& op = spec.op;
  const TensorView view = input_view(op, x);
  spec.expand_weight = expand_weight.view(op, "expand_weight");
  spec.expand_bias = expand_bias.view(op, "expand_bias");
  spec.depthwise_weight = depthwise_weight.view(op, "depthwise_weight");
  spec.depthwise_bias = depthwise_bias.view(op, "depthwise_bias");
  spec.project_weight = project_weight.view(op, "project_weight");
  spec.project_bias = project_bias.view(op, "project_bias");
  spec.window = window_of(op, stride, padding, dilation);
  spec.expand_activation = parse_activation(op, "expand_activation", expand_activation);
  spec.depthwise_activation = parse_activation(op, "depthwise_activation", depthwise_activation);
  spec.activation = parse_activation(op, "activation", activation);
  spec.shortcut = parse_shortcut(op, shortcut);
  return run_packed(op, view, pack(spec));
}

}  // namespace

void define_shuffle_ops(torch::stable::detail::StableLibrary& m) {
  m.def("channel_shuffle(Tensor x, int groups) -> Tensor");
  m.def(
      "shuffle_unit(Tensor x, Tensor? expand_weight, Tensor? expand_bias, "
      "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor project_weight, "
      "Tensor? project_bias, Tensor? shortcut_depthwise_weight, Tensor? shortcut_depthwise_bias, "
      "Tensor? shortcut_project_weight, Tensor? shortcut_project_bias, int[] stride, "
      "int[] padding, int[] dilation, str expand_activation, str depthwise_activation, "
      "str project_activation, str shortcut_depthwise_activation, "
      "str shortcut_project_activation) -> Tensor");
  m.def(
      "shuffle_unit_v1(Tensor x, Tensor expand_weight, Tensor? expand_bias, "
      "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor project_weight, "
      "Tensor? project_bias, int[] stride, int[] padding, int[] dilation, int expand_groups, "
      "int groups, int project_groups, str expand_activation, str depthwise_activation, "
      "str activation, str shortcut) -> Tensor");
}

void implement_shuffle_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("channel_shuffle", &boxed<channel_shuffle_kernel>);
  m.impl("shuffle_unit", &boxed<shuffle_unit_kernel>);
  m.impl("shuffle_unit_v1", &boxed<shuffle_unit_v1_kernel>);
}

}  // namespace weebill::bindings
