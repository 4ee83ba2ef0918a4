// The oracle of the gradient kernels; see reference.h.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/args.h"
#include "reference.h"

namespace weebill::reference {

/// PointwiseWeightGradArgs: dw[o * k + i] = start[o * k + i] + sum_p dy(p, o) * x(p, i).
template <typename Dy, typename X>
std::vector<Bounded> outer_products(std::int64_t m, std::int64_t k, std::int64_t n, Dy dy, X x,
                                    const float* start) {
  std::vector<Bounded> dw(static_cast<std::size_t>(n * k));
  for (std::int64_t o = 0; o < n; ++o) {
    for (std::int64_t i = 0; i < k; ++i) {
      Dot dot;
      dot.add(1, {start[o * k + i], 0});
      for (std::int64_t p = 0; p < m; ++p) dot.add(dy(p, o), {x(p, i), 0});
      // A block of pixels is summed for itself: one more sum each.
      dw[static_cast<std::size_t>(o * k + i)] = dot.result(1);
    }
  }
  return dw;
}

/// DepthwiseInputGradAnyArgs, w[c][kernel_h][kernel_w]; dy(r, j, c) for 0 <= j < dy_columns.
struct InputGradShape {
  std::int64_t kernel_h, kernel_w, stride, dilation, first_row, row_step, rows;
  std::int64_t first, columns, dy_columns, channels;
};
template <typename Dy>
std::vector<Bounded> depthwise_input_grad(const InputGradShape& s, Dy dy, const float* w) {
  std::vector<Bounded> dx(static_cast<std::size_t>(s.columns * s.channels));
  for (std::int64_t i = 0; i < s.columns; ++i) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      Dot dot;
      for (std::int64_t r = 0; r < s.rows; ++r) {
        for (std::int64_t v = 0; v < s.kernel_w; ++v) {
          const std::int64_t at = s.first + i - v * s.dilation;
          if (at < 0 || at % s.stride != 0 || at / s.stride >= s.dy_columns) continue;
          const std::int64_t tap = (c * s.kernel_h + s.first_row + r * s.row_step) * s.kernel_w + v;
          dot.add(w[tap], {dy(r, at / s.stride, c), 0});
        }
      }
      dx[static_cast<std::size_t>(i * s.channels + c)] = dot.result();
    }
  }
  return dx;
}

/// DepthwiseWeightGradAnyArgs, dw[(u * kernel_w + v) * channels + c]; x(i, u, column, c) is row u
/// of the window of output row i.
struct WeightGradShape {
  std::int64_t kernel_h, kernel_w, stride, dilation, rows, columns, channels;
};
template <typename Dy, typename X>
std::vector<Bounded> depthwise_weight_grad(const WeightGradShape& s, Dy dy, X x,
                                           const float* start) {
  std::vector<Bounded> dw(static_cast<std::size_t>(s.kernel_h * s.kernel_w * s.channels));
  for (std::int64_t t = 0; t < s.kernel_h * s.kernel_w; ++t) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      Dot dot;
      dot.add(1, {start[t * s.channels + c], 0});
      for (std::int64_t i = 0; i < s.rows; ++i) {
        for (std::int64_t j = 0; j < s.columns; ++j) {
          const std::int64_t column = j * s.stride + t % s.kernel_w * s.dilation;
          dot.add(dy(i, j, c), {x(i, t / s.kernel_w, column, c), 0});
        }
      }
      dw[static_cast<std::size_t>(t * s.channels + c)] = dot.result();
    }
  }
  return dw;
}

}  // namespace weebill::reference
