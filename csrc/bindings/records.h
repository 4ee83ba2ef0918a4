// Packed weights of one call of an op, and running them.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bindings/stable_torch.h"
#include "core/weebill.h"

namespace weebill::bindings {

constexpr std::size_t kAlignment = 64;

/// The records of one call, joined at an address that the core accepts.
class Records {
 public:
  void add(const std::vector<std::byte>& record) {
    bytes_.insert(bytes_.end(), record.begin(), record.end());
  }

  Packed packed() {
    memory_.reset(
        static_cast<std::byte*>(::operator new(bytes_.size(), std::align_val_t{kAlignment})));
    std::memcpy(memory_.get(), bytes_.data(), bytes_.size());
    return {memory_.get(), bytes_.size()};
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const {
      ::operator delete(memory, std::align_val_t{kAlignment});
    }
  };
  std::vector<std::byte> bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

inline TensorHandle run_on(const std::string& op, const TensorView& x, Packed records) {
  const Shape shape = output_shape(op, {x.n, x.c, x.h, x.w}, records);
  TensorHandle y = empty_tensor<4>({shape.n, shape.c, shape.h, shape.w},
                                   {shape.h * shape.w * shape.c, 1, shape.w * shape.c, shape.c});
  run(op, x, records, float_data(y));
  return y;
}

inline TensorHandle run_packed(const std::string& op, const TensorView& x,
                               const std::vector<std::byte>& record) {
  Records records;
  records.add(record);
  return run_on(op, x, records.packed());
}

}  // namespace weebill::bindings
