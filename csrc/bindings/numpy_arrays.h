// Between numpy and the core: checked views of arrays that come in, 64-byte aligned arrays that go
// out. Every message names the operator, the argument, the rule and what was given.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "bindings/convert.h"
#include "bindings/result_memory.h"
#include "core/status.h"
#include "core/weebill.h"

namespace weebill::bindings {

namespace py = pybind11;

/// What the core asks of packed records, and a cache line.
/// Of results and of records that are made here; given ones need less (kRecordAlignment).
constexpr std::size_t kAlignment = ResultMemory::kAlignment;

inline std::string text_of(const py::handle& value) { return py::str(value).cast<std::string>(); }

inline std::string type_name(const py::handle& value) {
  return text_of(py::type::handle_of(value).attr("__name__"));
}

/// The argument as an array of element type T in native byte order; nothing is converted.
template <typename T>
py::array checked_array(const std::string& op, const std::string& name, const py::object& value,
                        const char* dtype_name) {
  if (!py::isinstance<py::array>(value)) {
    throw TypeError(concat(op, ": ", name, " must be a numpy array, got ", type_name(value)));
  }
  py::array array = py::reinterpret_borrow<py::array>(value);
  if (!array.dtype().is(py::dtype::of<T>()) && !array.dtype().equal(py::dtype::of<T>())) {
    throw TypeError(
        concat(op, ": ", name, " must be ", dtype_name, ", got ", text_of(array.dtype())));
  }
  return array;
}

inline std::string shape_text(const py::array& array) { return text_of(array.attr("shape")); }

/// True if the elements lie one after the other, each at an address of its type's alignment.
inline bool is_plain(const py::array& array) {
  return (array.flags() & py::array::c_style) != 0 &&
         (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

/// The array as a view in elements. A stride that is negative or no whole number of elements is
/// refused; along a size of 1 it is never used.
inline TensorView input_view(const std::string& op, const py::array& x, const char* name = "x") {
  if (x.ndim() != 4) {
    throw ValueError(
        concat(op, ": ", name, " must have 4 dimensions (n, c, h, w), got shape ", shape_text(x)));
  }
  std::array<std::int64_t, 4> sizes{};
  std::array<std::int64_t, 4> strides{};
  for (int axis = 0; axis < 4; ++axis) {
    const std::int64_t bytes = x.shape(axis) > 1 ? x.strides(axis) : 0;
    if (bytes < 0 || bytes % static_cast<std::int64_t>(sizeof(float)) != 0) {
      throw ValueError(
          concat(op, ": ", name, " must have strides of whole elements, none negative, got ",
                 text_of(x.attr("strides")), " bytes; numpy.ascontiguousarray(x) copies it"));
    }
    const auto a = static_cast<std::size_t>(axis);
    sizes[a] = x.shape(axis);
    strides[a] = bytes / static_cast<std::int64_t>(sizeof(float));
  }
  check(reinterpret_cast<std::uintptr_t>(x.data()) % alignof(float) == 0, op, ": ", name,
        " must be aligned to 4 bytes, got an unaligned array; its copy() is aligned");
  return make_view(static_cast<const float*>(x.data()), sizes.data(), strides.data());
}

/// The weights of one call: checks them, and keeps alive what the core reads.
class WeightArguments {
 public:
  explicit WeightArguments(std::string op) : op_(std::move(op)) {}

  const std::string& op() const { return op_; }

  /// None becomes the empty Weight. Other layouts than C-contiguous are copied.
  Weight weight(const char* name, const py::object& value) {
    if (value.is_none()) return {};
    py::array array = checked_array<float>(op_, name, value, "float32");
    if (!is_plain(array)) array = array.attr("copy")("C");
    Weight weight;
    weight.data = static_cast<const float*>(array.data());
    weight.shape.assign(array.shape(), array.shape() + array.ndim());
    // The core takes a null pointer for "not given"; an empty array is given, and wrong.
    if (array.size() == 0) {
      throw ValueError(
          concat(op_, ": ", name, " must not be empty, got shape ", shape_text(array)));
    }
    kept_.push_back(std::move(array));
    return weight;
  }

  Activation activation(const char* name, const std::string& value) const {
    return parse_activation(op_, name, value);
  }

 private:
  std::string op_;
  std::vector<py::array> kept_;
};

/// An uninitialised array for a result; strides are in bytes.
inline py::array result_array(std::vector<py::ssize_t> shape, std::vector<py::ssize_t> strides) {
  std::size_t bytes = sizeof(float);
  for (const py::ssize_t size : shape) bytes *= static_cast<std::size_t>(size);
  void* memory = ResultMemory::instance().take(bytes);
  py::capsule owner(memory, [](void* pointer) { ResultMemory::instance().give_back(pointer); });
  return py::array(py::dtype::of<float>(), std::move(shape), std::move(strides), memory, owner);
}

/// Uninitialised bytes for records, which are freed once and for all.
inline py::array record_bytes(std::size_t bytes) {
  void* memory = ::operator new(std::max(bytes, kAlignment), std::align_val_t{kAlignment});
  py::capsule owner(
      memory, [](void* pointer) { ::operator delete(pointer, std::align_val_t{kAlignment}); });
  return py::array(py::dtype::of<std::uint8_t>(), {static_cast<py::ssize_t>(bytes)}, {1}, memory,
                   owner);
}

/// Memory for a record of so many bytes: new, or what the function `allocate` (or None) gives.
inline py::array record_memory(const std::string& op, const py::object& allocate,
                               std::size_t bytes) {
  if (allocate.is_none()) return record_bytes(bytes);
  const py::object given = allocate(bytes);
  py::array array = checked_array<std::uint8_t>(op, "allocate's result", given, "uint8");
  if (array.ndim() != 1 || static_cast<std::size_t>(array.size()) != bytes || !is_plain(array)) {
    throw ValueError(concat(op, ": allocate's result must be contiguous, of shape (", bytes,
                            ",), got shape ", shape_text(array)));
  }
  const auto offset = reinterpret_cast<std::uintptr_t>(array.data()) % kAlignment;
  check(array.writeable() && offset == 0, op, ": allocate's result must be writable and start at ",
        "a multiple of ", kAlignment, " bytes, got a remainder of ", offset);
  return array;
}

/// The record that `write` makes when it is given an Allocate.
template <typename Write>
py::array record_array(const std::string& op, const py::object& allocate, const Write& write) {
  py::array record;
  write([&](std::size_t bytes) {
    record = record_memory(op, allocate, bytes);
    return static_cast<std::byte*>(record.mutable_data());
  });
  return record;
}

template <typename Spec>
py::array packed_array(const Spec& spec, const py::object& allocate) {
  return record_array(spec.op, allocate, [&spec](const Allocate& memory) { pack(spec, memory); });
}

/// Packed records as the core wants them; the array must outlive the result.
inline Packed packed_view(const std::string& op, const py::array& array) {
  if (array.ndim() != 1) {
    throw ValueError(concat(op, ": records must have 1 dimension, got shape ", shape_text(array)));
  }
  if (!is_plain(array)) {
    throw ValueError(
        concat(op, ": records must be contiguous, got strides ", text_of(array.attr("strides"))));
  }
  const auto offset = reinterpret_cast<std::uintptr_t>(array.data()) % kRecordAlignment;
  check(offset == 0, op, ": records must start at a multiple of ", kRecordAlignment,
        " bytes, got a remainder of ", offset, "; weebill._C.join([records]) copies them");
  return {static_cast<const std::byte*>(array.data()), static_cast<std::size_t>(array.size())};
}

}  // namespace weebill::bindings
