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

/// DepthwiseGradAnyArgs.
struct DepthwiseGradShape {
  std::int64_t kernel_h, kernel_w, stride, dilation, first_row, row_step, rows;
  std::int64_t first, columns, dy_columns, channels;
};
struct DepthwiseGrads {
  std::vector<Bounded> dx;  ///< [column][c]
  std::vector<Bounded> dw;  ///< [tap][c]
};

/// w[c][kernel_h][kernel_w]; dy(r, j, c) for 0 <= j < dy_columns; x(i, c); `start` as dw.
template <typename Dy, typename X>
DepthwiseGrads depthwise_grads(const DepthwiseGradShape& s, Dy dy, X x, const float* w,
                               const float* start) {
  const std::int64_t taps = s.kernel_h * s.kernel_w;
  std::vector<Dot> dx(static_cast<std::size_t>(s.columns * s.channels));
  std::vector<Dot> dw(static_cast<std::size_t>(taps * s.channels));
  for (std::size_t at = 0; at < dw.size(); ++at) dw[at].add(1, {start[at], 0});
  for (std::int64_t i = 0; i < s.columns; ++i) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      for (std::int64_t r = 0; r < s.rows; ++r) {
        for (std::int64_t v = 0; v < s.kernel_w; ++v) {
          const std::int64_t at = s.first + i - v * s.dilation;
          if (at < 0 || at % s.stride != 0 || at / s.stride >= s.dy_columns) continue;
          const std::int64_t tap = (s.first_row + r * s.row_step) * s.kernel_w + v;
          const float grad = dy(r, at / s.stride, c);
          dx[static_cast<std::size_t>(i * s.channels + c)].add(w[c * taps + tap], {grad, 0});
          dw[static_cast<std::size_t>(tap * s.channels + c)].add(x(i, c), {grad, 0});
        }
      }
    }
  }
  DepthwiseGrads grads;
  for (const Dot& dot : dx) grads.dx.push_back(dot.result());
  for (const Dot& dot : dw) grads.dw.push_back(dot.result());
  return grads;
}

}  // namespace weebill::reference
