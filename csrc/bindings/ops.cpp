// `torch.ops.weebill.*`: schemas and CPU kernels over the core, through torch's stable ABI, so that
// one binary serves every torch from 2.10 on. A library without Python symbols; weebill/_ops.py
// loads it and adds what is written in Python: fake kernels, gradients, autocast.
//
// Errors. The core's ValueError is a std::invalid_argument, which arrives in Python as ValueError.
// No C++ type arrives as TypeError or NotImplementedError: those two travel as a std::runtime_error
// whose text starts with the name, and weebill/_errors.py turns them back.
#include <cstddef>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

#include "bindings/arguments.h"
#include "bindings/backward_ops.h"
#include "bindings/records.h"
#include "bindings/shuffle_ops.h"
#include "bindings/training_ops.h"
#include "core/parallel.h"
#include "core/weebill.h"

namespace weebill::bindings {
namespace {

// --- kernels -------------------------------------------------------------------------------------

TensorHandle run_kernel(Arguments arguments) {
  static const std::string op = "run";
  const TensorHandle x = arguments.tensor();
  const TensorHandle records = arguments.tensor();
  // The geometry is there for the fake kernel, which can't read the records.
  const ListHandle geometry = arguments.list();
  const bool flatten = arguments.boolean();
  const TensorInfo info = tensor_info(op, "records", records);
  if (info.dtype != aoti_torch_dtype_uint8()) {
    throw TypeError(concat(op, ": records must be uint8, got ", dtype_name(info.dtype)));
  }
  check(info.dim == 1, op, ": records must have 1 dimension, got ", info.dim);
  check(info.sizes[0] < 2 || info.strides[0] == 1, op,
        ": records must be contiguous, got a stride of ", info.strides[0]);
  const auto offset = reinterpret_cast<std::uintptr_t>(info.data) % kRecordAlignment;
  check(offset == 0, op, ": records must start at a multiple of ", kRecordAlignment,
        " bytes, got a remainder of ", offset, "; records.clone() does");
  const TensorView view = input_view(op, x);
  const Packed packed = {static_cast<const std::byte*>(info.data),
                         static_cast<std::size_t>(info.sizes[0])};
  return flatten ? run_flat(op, view, packed) : run_on(op, view, packed);
}

TensorHandle conv2d_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  WeightArgument bias(arguments.optional_tensor());
  const auto stride = arguments.integers();
  const auto padding = arguments.integers();
  const auto dilation = arguments.integers();
  Conv2dSpec spec;
  spec.groups = arguments.integer();
  const std::string activation = arguments.string();
  const TensorView view = input_view(spec.op, x);
  spec.weight = weight.view(spec.op, "weight");
  spec.bias = bias.view(spec.op, "bias");
  spec.window = window_of(spec.op, stride, padding, dilation);
  spec.activation = parse_activation(spec.op, "activation", activation);
  return run_packed(spec.op, view, spec);
}

TensorHandle depthwise_conv2d_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  WeightArgument bias(arguments.optional_tensor());
  const auto stride = arguments.integers();
  const auto padding = arguments.integers();
  const auto dilation = arguments.integers();
  const std::string activation = arguments.string();
  Conv2dSpec spec;
  spec.op = "depthwise_conv2d";
  const TensorView view = input_view(spec.op, x);
  spec.weight = weight.view(spec.op, "weight");
  const auto& shape = spec.weight.shape;
  if (shape.size() != 4 || shape[1] != 1 || view.c < 1 || shape[0] % view.c != 0) {
    throw ValueError(concat(spec.op,
                            ": weight must be (c_out, 1, kh, kw) with c_out a multiple of ", view.c,
                            ", the channels of x, got ", text_of(shape)));
  }
  spec.bias = bias.view(spec.op, "bias");
  spec.window = window_of(spec.op, stride, padding, dilation);
  spec.groups = view.c;
  spec.activation = parse_activation(spec.op, "activation", activation);
  return run_packed(spec.op, view, spec);
}

/// A 1 x 1 convolution: a pointwise op, or the linear part of a head.
Conv2dSpec pointwise_spec(const std::string& op, WeightArgument& weight, WeightArgument& bias,
                          const std::string& activation) {
  Conv2dSpec spec;
  spec.op = op;
  spec.weight = weight.view(op, "weight");
  spec.bias = bias.view(op, "bias");
  spec.activation = parse_activation(op, "activation", activation);
  return spec;
}

TensorHandle pointwise_conv2d_kernel(Arguments arguments) {
  static const std::string op = "pointwise_conv2d";
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  WeightArgument bias(arguments.optional_tensor());
  const std::string activation = arguments.string();
  const TensorView view = input_view(op, x);
  const Conv2dSpec spec = pointwise_spec(op, weight, bias, activation);
  const auto& shape = spec.weight.shape;
  if (shape.size() != 4 || shape[1] != view.c || shape[2] != 1 || shape[3] != 1) {
    throw ValueError(concat(op, ": weight must be (c_out, ", view.c, ", 1, 1) for x with ", view.c,
                            " channels, got ", text_of(shape)));
  }
  return run_packed(op, view, spec);
}

TensorHandle pool_linear_kernel(Arguments arguments) {
  static const std::string op = "pool_linear";
  const TensorHandle x = arguments.tensor();
  WeightArgument weight(arguments.tensor());
  WeightArgument bias(arguments.optional_tensor());
  const std::string activation = arguments.string();
  const TensorView view = input_view(op, x);
  Conv2dSpec linear = pointwise_spec(op, weight, bias, activation);
  auto& shape = linear.weight.shape;
  if (shape.size() != 2 || shape[1] != view.c) {
    throw ValueError(concat(op, ": weight must be (c_out, ", view.c, ") for x with ", view.c,
                            " channels, got ", text_of(shape)));
  }
  shape.insert(shape.end(), {1, 1});
  GlobalPoolSpec pool;
  pool.op = op;
  pool.channels = view.c;
  Records records;
  records.add(pool);
  records.add(linear);
  const Packed packed = records.packed();
  return run_flat(op, view, packed);
}

TensorHandle squeeze_excite_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  SqueezeExciteSpec spec;
  SpecArguments read(arguments);
  read.layer("reduce", spec.reduce_weight, spec.reduce_bias);
  read.layer("expand", spec.expand_weight, spec.expand_bias);
  read.activation("activation", spec.activation);
  read.activation("gate", spec.gate);
  const TensorView view = input_view(spec.op, x);
  read.settle(spec.op);
  return run_packed(spec.op, view, spec);
}

/// The core knows the pointwise part as a projection; a message names what the caller has given.
void add_depthwise_pointwise(const SeparableSpec& spec, Records& records) {
  try {
    records.add(spec);
  } catch (const ValueError& error) {
    std::string text = error.what();
    const std::string theirs = "project_";
    for (auto at = text.find(theirs); at != std::string::npos; at = text.find(theirs, at)) {
      text.replace(at, theirs.size(), "pointwise_");
    }
    throw ValueError(text);
  }
}

TensorHandle depthwise_pointwise_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  SeparableSpec spec;
  spec.op = "depthwise_pointwise";
  SpecArguments read(arguments);
  read.layer("depthwise", spec.depthwise_weight, spec.depthwise_bias);
  read.layer("pointwise", spec.project_weight, spec.project_bias);
  read.window(spec.window);
  read.activation("depthwise_activation", spec.depthwise_activation);
  read.activation("pointwise_activation", spec.project_activation);
  spec.residual = arguments.boolean();
  const TensorView view = input_view(spec.op, x);
  read.settle(spec.op);
  Records records;
  add_depthwise_pointwise(spec, records);
  return run_on(spec.op, view, records.packed());
}

TensorHandle inverted_residual_kernel(Arguments arguments) {
  const TensorHandle x = arguments.tensor();
  SeparableSpec spec;
  SpecArguments read(arguments);
  read.optional_layer("expand", spec.expand_weight, spec.expand_bias);
  read.layer("depthwise", spec.depthwise_weight, spec.depthwise_bias);
  read.optional_layer("se_reduce", spec.se_reduce_weight, spec.se_reduce_bias);
  read.optional_layer("se_expand", spec.se_expand_weight, spec.se_expand_bias);
  read.layer("project", spec.project_weight, spec.project_bias);
  read.window(spec.window);
  read.activation("expand_activation", spec.expand_activation);
  read.activation("depthwise_activation", spec.depthwise_activation);
  read.activation("se_activation", spec.se_activation);
  read.activation("se_gate", spec.se_gate);
  read.activation("project_activation", spec.project_activation);
  spec.residual = arguments.boolean();
  const TensorView view = input_view(spec.op, x);
  read.settle(spec.op);
  return run_packed(spec.op, view, spec);
}

}  // namespace
}  // namespace weebill::bindings

STABLE_TORCH_LIBRARY(weebill, m) {
  m.def("run(Tensor x, Tensor records, int[] geometry, bool flatten=False) -> Tensor");
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
      "int groups, str activation) -> Tensor");
  m.def(
      "depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
      "int[] dilation, str activation) -> Tensor");
  m.def("pointwise_conv2d(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor");
  m.def("pool_linear(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor");
  m.def(
      "squeeze_excite(Tensor x, Tensor reduce_weight, Tensor? reduce_bias, Tensor expand_weight, "
      "Tensor? expand_bias, str activation, str gate) -> Tensor");
  m.def(
      "depthwise_pointwise(Tensor x, Tensor depthwise_weight, Tensor? depthwise_bias, "
      "Tensor pointwise_weight, Tensor? pointwise_bias, int[] stride, int[] padding, "
      "int[] dilation, str depthwise_activation, str pointwise_activation, bool residual) "
      "-> Tensor");
  m.def(
      "inverted_residual(Tensor x, Tensor? expand_weight, Tensor? expand_bias, "
      "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor? se_reduce_weight, "
      "Tensor? se_reduce_bias, Tensor? se_expand_weight, Tensor? se_expand_bias, "
      "Tensor project_weight, Tensor? project_bias, int[] stride, int[] padding, int[] dilation, "
      "str expand_activation, str depthwise_activation, str se_activation, str se_gate, "
      "str project_activation, bool residual) -> Tensor");
  weebill::bindings::define_backward_ops(m);
  weebill::bindings::define_training_ops(m);
  weebill::bindings::define_shuffle_ops(m);
}

STABLE_TORCH_LIBRARY_IMPL(weebill, CPU, m) {
  using namespace weebill::bindings;
  m.impl("run", &boxed<run_kernel>);
  m.impl("conv2d", &boxed<conv2d_kernel>);
  m.impl("depthwise_conv2d", &boxed<depthwise_conv2d_kernel>);
  m.impl("pointwise_conv2d", &boxed<pointwise_conv2d_kernel>);
  m.impl("pool_linear", &boxed<pool_linear_kernel>);
  m.impl("squeeze_excite", &boxed<squeeze_excite_kernel>);
  m.impl("depthwise_pointwise", &boxed<depthwise_pointwise_kernel>);
  m.impl("inverted_residual", &boxed<inverted_residual_kernel>);
  implement_backward_ops(m);
  implement_training_ops(m);
  implement_shuffle_ops(m);
}
