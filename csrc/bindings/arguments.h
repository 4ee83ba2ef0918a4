// What the boxed kernels of the torch ops share: their tensor arguments as the core sees them, and
// the way errors go.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/convert.h"
#include "bindings/stable_torch.h"
#include "bindings/torch_parallel.h"
#include "core/weebill.h"

namespace weebill::bindings {

/// An image as the core sees it.
inline TensorView input_view(const std::string& op, const TensorHandle& x, const char* name = "x") {
  const TensorInfo info = tensor_info(op, name, x);
  if (info.dtype != aoti_torch_dtype_float32()) {
    throw TypeError(concat(op, ": ", name, " must be float32, got ", dtype_name(info.dtype)));
  }
  check(info.dim == 4, op, ": ", name, " must have 4 dimensions (n, c, h, w), got ", info.dim);
  return make_view(static_cast<const float*>(info.data), info.sizes, info.strides);
}

/// A weight of a call: checked, and C-contiguous for the core. `model.to(channels_last)` gives the
/// weights other strides too, so those are gathered.
class WeightArgument {
 public:
  explicit WeightArgument(TensorHandle tensor) : tensor_(std::move(tensor)) {}

  Weight view(const std::string& op, const char* name) {
    if (!tensor_) return {};
    const TensorInfo info = tensor_info(op, name, tensor_);
    if (info.dtype != aoti_torch_dtype_float32()) {
      throw TypeError(concat(op, ": ", name, " must be float32, got ", dtype_name(info.dtype)));
    }
    Weight weight;
    weight.shape.assign(info.sizes, info.sizes + info.dim);
    std::int64_t elements = 1;
    bool contiguous = true;
    for (std::int64_t axis = info.dim - 1; axis >= 0; --axis) {
      contiguous = contiguous && (info.sizes[axis] == 1 || info.strides[axis] == elements);
      elements *= info.sizes[axis];
    }
    // The core takes a null pointer for "not given"; an empty tensor is given, and wrong.
    check(elements > 0, op, ": ", name, " must not be empty, got a tensor without elements");
    weight.data = static_cast<const float*>(info.data);
    if (!contiguous) {
      gathered_.reserve(static_cast<std::size_t>(elements));
      gather(info, 0, weight.data);
      weight.data = gathered_.data();
    }
    return weight;
  }

 private:
  void gather(const TensorInfo& info, std::int64_t axis, const float* from) {
    if (axis == info.dim) {
      gathered_.push_back(*from);
      return;
    }
    for (std::int64_t i = 0; i < info.sizes[axis]; ++i) {
      gather(info, axis + 1, from + i * info.strides[axis]);
    }
  }

  TensorHandle tensor_;
  std::vector<float> gathered_;
};

/// A call's arguments after x, read in the schema's order, each with the member of the spec that it
/// is for. `settle` checks them and fills the members: x is checked before.
class SpecArguments {
 public:
  explicit SpecArguments(Arguments& arguments) : arguments_(arguments) {}

  /// `role`_weight, a tensor, and `role`_bias, which may be None.
  void layer(const std::string& role, Weight& weight, Weight& bias) {
    add(role + "_weight", arguments_.tensor(), weight);
    add(role + "_bias", arguments_.optional_tensor(), bias);
  }
  /// The same for a layer that may be left out.
  void optional_layer(const std::string& role, Weight& weight, Weight& bias) {
    add(role + "_weight", arguments_.optional_tensor(), weight);
    add(role + "_bias", arguments_.optional_tensor(), bias);
  }
  void window(Window& member) {
    stride_ = arguments_.integers();
    padding_ = arguments_.integers();
    dilation_ = arguments_.integers();
    window_ = &member;
  }
  void activation(const char* name, Activation& member) {
    activations_.push_back({name, arguments_.string(), &member});
  }

  /// The weights that are filled in are memory of this object's.
  void settle(const std::string& op) {
    for (auto& [name, argument, member] : weights_) {
      *member = argument.view(op, name.c_str());
    }
    if (window_ != nullptr) *window_ = window_of(op, stride_, padding_, dilation_);
    for (const auto& [name, text, member] : activations_)
      *member = parse_activation(op, name, text);
  }

 private:
  void add(std::string name, TensorHandle tensor, Weight& member) {
    weights_.push_back({std::move(name), WeightArgument(std::move(tensor)), &member});
  }

  struct NamedWeight {
    std::string name;
    WeightArgument argument;
    Weight* member;
  };
  struct NamedActivation {
    const char* name;
    std::string text;
    Activation* member;
  };

  Arguments& arguments_;
  std::vector<NamedWeight> weights_;
  std::vector<std::int64_t> stride_, padding_, dilation_;
  Window* window_ = nullptr;
  std::vector<NamedActivation> activations_;
};

/// Runs a kernel between torch's stack and the error convention of ops.cpp.
template <typename Body>
void translated(Body&& body) {
  static constexpr ParallelHook kTorch = {&torch_with_team, &torch_threads};
  const ParallelScope threads_of_torch(kTorch);
  try {
    body();
  } catch (const TypeError& error) {
    throw std::runtime_error(concat("TypeError: ", error.what()));
  } catch (const NotSupported& error) {
    throw std::runtime_error(concat("NotImplementedError: ", error.what()));
  }
}

/// What torch calls for a kernel with one result.
template <TensorHandle (*kernel)(Arguments)>
void boxed(StableIValue* stack, std::uint64_t, std::uint64_t) {
  translated(
      [stack] { stack[0] = torch::stable::detail::from(kernel(Arguments(stack)).release()); });
}

}  // namespace weebill::bindings
