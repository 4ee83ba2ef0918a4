// A dense convolution, row by row. Internal to the core.
#pragma once

#include <cstdint>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {

/// A convolution of x, of any layout, that gives whichever rows of its output are wanted.
template <typename T>
class Conv2dRows {
 public:
  /// What it needs is taken from `scope`.
  Conv2dRows(const RunOf<T>& run, const Record& record, const TensorViewOf<T>& x,
             Workspace::Scope& scope);

  /// Of the output.
  const Shape& shape() const { return out_; }
  /// Multiply-adds of an image.
  std::int64_t work() const { return out_.h * out_.w * k_ * out_.c; }
  /// Elements that every task of rows() must have for itself.
  std::int64_t scratch_elements() const { return round_up(kGather * k_, kBlock); }
  /// Rows [first, last) of one image's output, dense NHWC from y.
  void rows(std::int64_t image, std::int64_t first, std::int64_t last, T* y, T* scratch) const;

 private:
  static constexpr std::int64_t kGather = 12;  // pixels at the edges that share a product

  PointwiseArgsOf<T> common_args(std::int64_t group) const;
  const T* input(std::int64_t image, std::int64_t group, std::int64_t iy, std::int64_t ix) const;
  Interior inside_rows(std::int64_t oy) const;
  void gather(std::int64_t image, std::int64_t group, std::int64_t oy, std::int64_t ox,
              T* to) const;
  void inside(std::int64_t image, std::int64_t group, std::int64_t oy, T* y) const;
  void edges(std::int64_t image, std::int64_t group, std::int64_t first, std::int64_t last, T* y,
             T* scratch) const;

  const RunOf<T>& run_;
  const Record& record_;
  const TensorViewOf<T> x_;
  const Window window_;
  const Shape out_;
  const Interior interior_;
  const std::int64_t depth_, k_, n_;  // per group: input channels, products, outputs
  const std::int64_t m_block_;        // of an output row
  const std::int64_t* offsets_;
};

}  // namespace weebill
