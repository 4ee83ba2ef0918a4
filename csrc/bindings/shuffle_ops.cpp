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
  ShuffleUnitSpec spec;
  SeparableSpec& branch = spec.branch;
  SeparableSpec& shortcut = spec.shortcut;
  SpecArguments read(arguments);
  read.optional_layer("expand", branch.expand_weight, branch.expand_bias);
  read.layer("depthwise", branch.depthwise_weight, branch.depthwise_bias);
  read.layer("project", branch.project_weight, branch.project_bias);
  read.optional_layer("shortcut_depthwise", shortcut.depthwise_weight, shortcut.depthwise_bias);
  read.optional_layer("shortcut_project", shortcut.project_weight, shortcut.project_bias);
  read.window(branch.window);
  read.activation("expand_activation", branch.expand_activation);
  read.activation("depthwise_activation", branch.depthwise_activation);
  read.activation("project_activation", branch.project_activation);
  read.activation("shortcut_depthwise_activation", shortcut.depthwise_activation);
  read.activation("shortcut_project_activation", shortcut.project_activation);
  const TensorView view = input_view(spec.op, x);
  read.settle(spec.op);
  shortcut.window = branch.window;
  return run_packed(spec.op, view, spec);
}

TensorHandle shuffle_unit_v1_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  ShuffleUnitV1Spec spec;
  SpecArguments read(arguments);
  read.layer("expand", spec.expand_weight, spec.expand_bias);
  read.layer("depthwise", spec.depthwise_weight, spec.depthwise_bias);
  read.layer("project", spec.project_weight, spec.project_bias);
  read.window(spec.window);
  spec.expand_groups = arguments.integer();
  spec.shuffle_groups = arguments.integer();
  spec.project_groups = arguments.integer();
  read.activation("expand_activation", spec.expand_activation);
  read.activation("depthwise_activation", spec.depthwise_activation);
  read.activation("activation", spec.activation);
  const std::string shortcut = arguments.string();
  const TensorView view = input_view(spec.op, x);
  read.settle(spec.op);
  spec.shortcut = parse_shortcut(spec.op, shortcut);
  return run_packed(spec.op, view, spec);
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
