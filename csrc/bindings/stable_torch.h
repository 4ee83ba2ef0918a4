// The little of torch that the ops need, over the C functions of its stable ABI: owners of handles,
// and a reader of the arguments of a boxed kernel.
//
// torch's own C++ helpers (TORCH_BOX) are not used: they leak one string per `str` argument, and
// turn integer lists that a kernel never looks at into vectors.
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/huge_pages.h"
#include "core/status.h"

namespace weebill::bindings {

inline void torch_check(AOTITorchError error, const char* what) {
  if (error != TORCH_SUCCESS) throw std::runtime_error(concat("weebill: torch failed to ", what));
}

struct DeleteTensor {
  void operator()(AtenTensorHandle handle) const { aoti_torch_delete_tensor_object(handle); }
};
using TensorHandle = std::unique_ptr<AtenTensorOpaque, DeleteTensor>;

struct DeleteList {
  void operator()(StableListHandle handle) const { torch_delete_list(handle); }
};
using ListHandle = std::unique_ptr<StableListOpaque, DeleteList>;

struct DeleteString {
  void operator()(StringHandle handle) const { torch_delete_string(handle); }
};
using StringOwner = std::unique_ptr<StringOpaque, DeleteString>;

/// "float64" for torch.float64, and so on.
inline std::string dtype_name(std::int32_t dtype) {
  struct Entry {
    std::int32_t (*code)();
    const char* name;
  };
  static constexpr std::array<Entry, 12> kNames = {{
      {&aoti_torch_dtype_float64, "float64"},
      {&aoti_torch_dtype_float32, "float32"},
      {&aoti_torch_dtype_float16, "float16"},
      {&aoti_torch_dtype_bfloat16, "bfloat16"},
      {&aoti_torch_dtype_int8, "int8"},
      {&aoti_torch_dtype_uint8, "uint8"},
      {&aoti_torch_dtype_int16, "int16"},
      {&aoti_torch_dtype_int32, "int32"},
      {&aoti_torch_dtype_int64, "int64"},
      {&aoti_torch_dtype_bool, "bool"},
      {&aoti_torch_dtype_complex64, "complex64"},
      {&aoti_torch_dtype_complex128, "complex128"},
  }};
  for (const Entry& entry : kNames) {
    if (entry.code() == dtype) return entry.name;
  }
  return concat("dtype number ", dtype);
}

/// What a tensor is, borrowed from its handle.
struct TensorInfo {
  void* data = nullptr;
  std::int64_t dim = 0;
  const std::int64_t* sizes = nullptr;
  const std::int64_t* strides = nullptr;
  std::int32_t dtype = 0;
};

/// Throws TypeError unless the tensor lies on the CPU. The dispatcher sends only those here; a
/// direct call of the kernel from compiled code may not have gone through it.
inline TensorInfo tensor_info(const std::string& op, const char* name, const TensorHandle& tensor) {
  TensorInfo info;
  std::int32_t device = 0;
  std::int64_t* sizes = nullptr;
  std::int64_t* strides = nullptr;
  torch_check(aoti_torch_get_device_type(tensor.get(), &device), "tell a tensor's device");
  if (device != aoti_torch_device_type_cpu()) {
    throw TypeError(concat(op, ": ", name, " must be on the cpu, got device type number ", device));
  }
  torch_check(aoti_torch_get_dtype(tensor.get(), &info.dtype), "tell a tensor's dtype");
  torch_check(aoti_torch_get_dim(tensor.get(), &info.dim), "tell a tensor's rank");
  torch_check(aoti_torch_get_sizes(tensor.get(), &sizes), "tell a tensor's sizes");
  torch_check(aoti_torch_get_strides(tensor.get(), &strides), "tell a tensor's strides");
  torch_check(aoti_torch_get_data_ptr(tensor.get(), &info.data), "tell a tensor's address");
  info.sizes = sizes;
  info.strides = strides;
  return info;
}

/// Reads a boxed kernel's arguments in the order of the schema, and owns each from then on. Read
/// all before the first check: an argument that was never read is never freed.
class Arguments {
 public:
  explicit Arguments(StableIValue* stack) : next_(stack) {}

  TensorHandle tensor() { return TensorHandle(take<AtenTensorHandle>()); }

  /// nullptr for None.
  TensorHandle optional_tensor() {
    const std::unique_ptr<StableIValue> inner(take<StableIValue*>());
    if (!inner) return nullptr;
    return TensorHandle(torch::stable::detail::to<AtenTensorHandle>(*inner));
  }

  std::int64_t integer() { return take<std::int64_t>(); }
  double real() { return take<double>(); }
  bool boolean() { return take<bool>(); }
  ListHandle list() { return ListHandle(take<StableListHandle>()); }

  std::vector<std::int64_t> integers() { return values<std::int64_t>(); }
  std::vector<bool> booleans() { return values<bool>(); }

  std::string string() {
    const StringOwner handle(take<StringHandle>());
    std::size_t size = 0;
    const char* data = nullptr;
    torch_check(torch_string_length(handle.get(), &size), "tell a string's length");
    torch_check(torch_string_c_str(handle.get(), &data), "read a string");
    return {data, size};
  }

 private:
  template <typename T>
  std::vector<T> values() {
    const ListHandle handle = list();
    std::size_t size = 0;
    torch_check(torch_list_size(handle.get(), &size), "tell a list's size");
    std::vector<T> found(size);
    for (std::size_t i = 0; i < size; ++i) {
      StableIValue value = 0;
      torch_check(torch_list_get_item(handle.get(), i, &value), "read a list");
      found[i] = torch::stable::detail::to<T>(value);
    }
    return found;
  }

  template <typename T>
  T take() {
    return torch::stable::detail::to<T>(*next_++);
  }

  StableIValue* next_;
};

inline void* data_of(const TensorHandle& tensor) {
  void* data = nullptr;
  torch_check(aoti_torch_get_data_ptr(tensor.get(), &data), "tell a tensor's address");
  return data;
}

/// An uninitialised tensor on the CPU, float32 unless another dtype is given.
template <std::size_t rank>
TensorHandle empty_tensor(const std::array<std::int64_t, rank>& sizes,
                          const std::array<std::int64_t, rank>& strides,
                          std::int32_t dtype = aoti_torch_dtype_float32()) {
  AtenTensorHandle handle = nullptr;
  torch_check(
      aoti_torch_empty_strided(static_cast<std::int64_t>(rank), sizes.data(), strides.data(), dtype,
                               aoti_torch_device_type_cpu(), 0, &handle),
      "make a tensor");
  TensorHandle tensor(handle);
  if (dtype == aoti_torch_dtype_float32()) {
    std::size_t bytes = sizeof(float);
    for (const std::int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    advise_huge_pages(data_of(tensor), bytes);
  }
  return tensor;
}

inline float* float_data(const TensorHandle& tensor) {
  return static_cast<float*>(data_of(tensor));
}

}  // namespace weebill::bindings
