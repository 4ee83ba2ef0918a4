// Packed weights of one call of an op, and running them.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "bindings/stable_torch.h"
#include "core/weebill.h"

namespace weebill::bindings {

constexpr std::size_t kAlignment = 64;

/// The records of one call, joined at an address that the core accepts.
class Records {
 public:
  template <typename Spec>
  void add(const Spec& spec) {
    pack(spec, [this](std::size_t bytes) { return grow(bytes); });
  }

  Packed packed() const { return {memory_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const {
      ::operator delete(memory, std::align_val_t{kAlignment});
    }
  };

  std::byte* grow(std::size_t bytes) {
    std::unique_ptr<std::byte, Free> memory(
        static_cast<std::byte*>(::operator new(bytes_ + bytes, std::align_val_t{kAlignment})));
    if (bytes_ > 0) std::memcpy(memory.get(), memory_.get(), bytes_);
    std::byte* added = memory.get() + bytes_;
    memory_ = std::move(memory);
    bytes_ += bytes;
    return added;
  }

  std::unique_ptr<std::byte, Free> memory_;
  std::size_t bytes_ = 0;
};

inline TensorHandle run_on(const std::string& op, const TensorView& x, Packed records) {
  TensorHandle y;
  run(op, x, records, [&y](const Shape& shape) {
    y = empty_tensor<4>({shape.n, shape.c, shape.h, shape.w},
                        {shape.h * shape.w * shape.c, 1, shape.w * shape.c, shape.c});
    return float_data(y);
  });
  return y;
}

/// The result's channels, height and width as one dimension, in this order.
inline TensorHandle run_flat(const std::string& op, const TensorView& x, Packed records) {
  Shape shape;
  const auto flat = [&shape] {
    const std::int64_t image = shape.c * shape.h * shape.w;
    return empty_tensor<2>({shape.n, image}, {image, 1});
  };
  TensorHandle found;
  run(op, x, records, [&](const Shape& y) {
    shape = y;
    found = flat();
    return float_data(found);
  });
  const std::int64_t pixels = shape.h * shape.w;
  if (pixels == 1) return found;
  TensorHandle ordered = flat();
  const float* from = float_data(found);
  float* to = float_data(ordered);
  for (std::int64_t n = 0; n < shape.n; ++n, from += pixels * shape.c) {
    for (std::int64_t c = 0; c < shape.c; ++c) {
      for (std::int64_t p = 0; p < pixels; ++p) *to++ = from[p * shape.c + c];
    }
  }
  return ordered;
}

template <typename Spec>
TensorHandle run_packed(const std::string& op, const TensorView& x, const Spec& spec) {
  Records records;
  records.add(spec);
  return run_on(op, x, records.packed());
}

}  // namespace weebill::bindings
