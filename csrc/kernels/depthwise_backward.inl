// Gradients of a depthwise convolution, vectorised over channels.
//
// By the input: outputs of a row are gathered from the rows of dy that reach it. A tile is 8
// columns of dx (14 where there are 32 registers): for stride 1 every dy vector is loaded once and
// used for all its taps; for stride 2 the even and the odd columns of the tile share the loads, so
// that no tap of a zero-stuffed row is computed. Everything about a tile but its place is known
// when it is compiled, also whether it starts at an even or an odd position of the padded row.
//
// By the weight: the accumulators are the taps, kept in registers over all rows and columns of a
// call. Rows of the window share the dy vectors as far as there are registers: all three of 3x3 (9
// accumulators + 4 dy + 1 x = 14 of AVX2's 16), two of 5x5 at a time (10 + 4 + 1), all five with 32
// registers (25 + 4 + 1).

constexpr int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/// Fetches what is ahead of the tile that begins at `column`.
template <int kColumns>
inline __attribute__((always_inline)) void fetch_ahead(const Ahead& ahead, int64_t column) {
  if constexpr (kLanes == kBlock) {
    const float* const end = ahead.at + (column + kColumns) * ahead.lines / 16 * kBlock;
    for (const float* p = ahead.at + column * ahead.lines / 16 * kBlock; p < end; p += kBlock) {
      prefetch(p);
    }
  }
}

/// kOdd: (first + column) % stride of the tile's first column.
template <int kKernel, int kStride, int kOdd, int kColumns, bool kTail>
inline void input_grad_tile(const DepthwiseInputGradArgs& a, int64_t column, int64_t c,
                            int64_t lanes) {
  Vec acc[kColumns];
  fetch_ahead<kColumns>(a.ahead, column);
#pragma GCC unroll 16
  for (int t = 0; t < kColumns; ++t) acc[t] = zero();
  const float* w =
      a.w + c / kBlock * (kKernel * kKernel * kBlock) + c % kBlock + a.first_row * kKernel * kBlock;
  const int64_t w_step = a.row_step * kKernel * kBlock;
  // dy column of the position before which the tile starts.
  const int64_t at = (a.first + column) / kStride * a.dy_stride + c;
  constexpr int kFirst = floor_div(kOdd - kKernel + 1, kStride);
  constexpr int kLast = (kOdd + kColumns - 1) / kStride;
  for (int64_t r = 0; r < a.rows; ++r, w += w_step) {
    const float* dy = a.dy_rows[r] + at;
    Vec taps[kKernel];
#pragma GCC unroll 8
    for (int v = 0; v < kKernel; ++v) taps[v] = load_channels<kTail>(w + v * kBlock, lanes);
#pragma GCC unroll 32
    for (int j = kFirst; j <= kLast; ++j) {
      // Does any column of the tile use it? The first and the last may not.
      bool used = false;
#pragma GCC unroll 16
      for (int t = 0; t < kColumns; ++t) {
        const int v = kOdd + t - j * kStride;
        used = used || (v >= 0 && v < kKernel);
      }
      if (!used) continue;
      const Vec input = load_channels<kTail>(dy + j * a.dy_stride, lanes);
#pragma GCC unroll 16
      for (int t = 0; t < kColumns; ++t) {
        const int v = kOdd + t - j * kStride;
        if (v >= 0 && v < kKernel) accumulate(acc[t], input, taps[v]);
      }
    }
  }
  float* dx = a.dx + column * a.dx_stride + c;
#pragma GCC unroll 16
  for (int t = 0; t < kColumns; ++t) store_channels<kTail>(dx + t * a.dx_stride, acc[t], lanes);
}

template <int kKernel, int kStride, int kOdd, int kColumns>
inline void input_grad_columns(const DepthwiseInputGradArgs& a, int64_t column) {
  int64_t c = 0;
  for (; c + kLanes <= a.channels; c += kLanes) {
    input_grad_tile<kKernel, kStride, kOdd, kColumns, false>(a, column, c, kLanes);
  }
  if (c < a.channels) {
    input_grad_tile<kKernel, kStride, kOdd, kColumns, true>(a, column, c, a.channels - c);
  }
}

constexpr int kInputGradColumns = kRegisters >= 32 ? 14 : 8;

template <int kKernel, int kStride, int kOdd>
inline void input_grad_row(const DepthwiseInputGradArgs& a) {
  int64_t i = 0;
  // Even counts: the tiles that follow start at the same phase.
  for (; i + kInputGradColumns <= a.columns; i += kInputGradColumns) {
    input_grad_columns<kKernel, kStride, kOdd, kInputGradColumns>(a, i);
  }
  if (kInputGradColumns > 8 && i + 8 <= a.columns) {
    input_grad_columns<kKernel, kStride, kOdd, 8>(a, i);
    i += 8;
  }
  if constexpr (kStride == 1) {  // any count will do
    switch (a.columns - i) {
#define WEEBILL_CASE(n)                                  \
  case n:                                                \
    input_grad_columns<kKernel, kStride, kOdd, n>(a, i); \
    break;
      WEEBILL_CASE(1)
      WEEBILL_CASE(2)
      WEEBILL_CASE(3)
      WEEBILL_CASE(4)
      WEEBILL_CASE(5)
      WEEBILL_CASE(6)
      WEEBILL_CASE(7)
#undef WEEBILL_CASE
      default:
        break;
    }
    return;
  }
  if (i + 4 <= a.columns) {
    input_grad_columns<kKernel, kStride, kOdd, 4>(a, i);
    i += 4;
  }
  if (i + 2 <= a.columns) {
    input_grad_columns<kKernel, kStride, kOdd, 2>(a, i);
    i += 2;
  }
  if (i < a.columns) input_grad_columns<kKernel, kStride, kOdd, 1>(a, i);
}

template <int kKernel, int kStride>
inline void input_grad(const DepthwiseInputGradArgs& a) {
  if (kStride == 1 || a.first % kStride == 0) {
    input_grad_row<kKernel, kStride, 0>(a);
  } else {
    input_grad_row<kKernel, kStride, kStride - 1>(a);
  }
}

void depthwise_backward_input_k3s1_f32(const DepthwiseInputGradArgs& a) { input_grad<3, 1>(a); }
void depthwise_backward_input_k3s2_f32(const DepthwiseInputGradArgs& a) { input_grad<3, 2>(a); }
void depthwise_backward_input_k5s1_f32(const DepthwiseInputGradArgs& a) { input_grad<5, 1>(a); }
void depthwise_backward_input_k5s2_f32(const DepthwiseInputGradArgs& a) { input_grad<5, 2>(a); }

void depthwise_backward_input_any_f32(const DepthwiseInputGradAnyArgs& any) {
  const DepthwiseInputGradArgs& a = any.common;
  const int64_t taps = any.kernel_h * any.kernel_w;
  for (int64_t i = 0; i < a.columns; ++i) {
    for (int64_t c = 0; c < a.channels; c += kLanes) {
      const int64_t lanes = a.channels - c < kLanes ? a.channels - c : kLanes;
      const float* w = a.w + c / kBlock * (taps * kBlock) + c % kBlock;
      Vec acc = zero();
      for (int64_t v = 0; v < any.kernel_w; ++v) {
        const int64_t at = a.first + i - v * any.dilation;
        if (at < 0 || at % any.stride != 0 || at / any.stride >= any.dy_columns) continue;
        for (int64_t r = 0; r < a.rows; ++r) {
          const int64_t tap = (a.first_row + r * a.row_step) * any.kernel_w + v;
          acc = fma(load_n(a.dy_rows[r] + at / any.stride * a.dy_stride + c, lanes),
                    load_n(w + tap * kBlock, lanes), acc);
        }
      }
      store_n(a.dx + i * a.dx_stride + c, acc, lanes);
    }
  }
}

/// kColumns of one output row into the taps of kRows rows of the window.
template <int kKernel, int kStride, int kRows, int kColumns, bool kTail>
inline void weight_grad_tile(const DepthwiseWeightGradArgs& a, Vec (&acc)[kRows * kKernel],
                             const float* x, const float* dy, int64_t lanes) {
  Vec grads[kColumns];
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j) {
    grads[j] = load_channels<kTail>(dy + j * a.dy_stride, lanes);
  }
#pragma GCC unroll 8
  for (int u = 0; u < kRows; ++u) {
    const float* row = x + u * a.x_row_stride;
    constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
#pragma GCC unroll 16
    for (int i = 0; i < kInputs; ++i) {
      const Vec input = load_channels<kTail>(row + i * a.x_stride, lanes);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        const int v = i - j * kStride;
        if (v >= 0 && v < kKernel) accumulate(acc[u * kKernel + v], input, grads[j]);
      }
    }
  }
}

template <int kKernel, int kStride, int kRows, bool kTail>
inline void weight_grad_rows(const DepthwiseWeightGradArgs& a, int64_t first_row, int64_t c,
                             int64_t lanes) {
  constexpr int kTaps = kRows * kKernel;
  float* dw =
      a.dw + c / kBlock * (kKernel * kKernel * kBlock) + c % kBlock + first_row * kKernel * kBlock;
  Vec acc[kTaps];
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) acc[t] = load_channels<kTail>(dw + t * kBlock, lanes);
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* x = a.x + i * a.x_row_step + first_row * a.x_row_stride + c;
    const float* dy = a.dy + i * a.dy_row_stride + c;
    int64_t j = 0;
    for (; j + 4 <= a.columns; j += 4) {
      fetch_ahead<4>(a.ahead, i * a.columns + j);
      weight_grad_tile<kKernel, kStride, kRows, 4, kTail>(a, acc, x, dy, lanes);
      x += 4 * kStride * a.x_stride;
      dy += 4 * a.dy_stride;
    }
    for (; j < a.columns; ++j) {
      weight_grad_tile<kKernel, kStride, kRows, 1, kTail>(a, acc, x, dy, lanes);
      x += kStride * a.x_stride;
      dy += a.dy_stride;
    }
  }
#pragma GCC unroll 32
  for (int t = 0; t < kTaps; ++t) store_channels<kTail>(dw + t * kBlock, acc[t], lanes);
}

template <int kKernel, int kStride, bool kTail>
inline void weight_grad_channels(const DepthwiseWeightGradArgs& a, int64_t c, int64_t lanes) {
  constexpr int kRows = kKernel * kKernel + 5 <= kRegisters ? kKernel : 2;
  int row = 0;
#pragma GCC unroll 8
  for (; row + kRows <= kKernel; row += kRows) {
    weight_grad_rows<kKernel, kStride, kRows, kTail>(a, row, c, lanes);
  }
  if constexpr (kKernel % kRows != 0) {
    weight_grad_rows<kKernel, kStride, kKernel % kRows, kTail>(a, row, c, lanes);
  }
}

template <int kKernel, int kStride>
inline void weight_grad(const DepthwiseWeightGradArgs& a) {
  int64_t c = 0;
  for (; c + kLanes <= a.channels; c += kLanes) {
    weight_grad_channels<kKernel, kStride, false>(a, c, kLanes);
  }
  if (c < a.channels) weight_grad_channels<kKernel, kStride, true>(a, c, a.channels - c);
}

void depthwise_backward_weight_k3s1_f32(const DepthwiseWeightGradArgs& a) { weight_grad<3, 1>(a); }
void depthwise_backward_weight_k3s2_f32(const DepthwiseWeightGradArgs& a) { weight_grad<3, 2>(a); }
void depthwise_backward_weight_k5s1_f32(const DepthwiseWeightGradArgs& a) { weight_grad<5, 1>(a); }
void depthwise_backward_weight_k5s2_f32(const DepthwiseWeightGradArgs& a) { weight_grad<5, 2>(a); }

void depthwise_backward_weight_any_f32(const DepthwiseWeightGradAnyArgs& any) {
  const DepthwiseWeightGradArgs& a = any.common;
  const int64_t taps = any.kernel_h * any.kernel_w;
  for (int64_t c = 0; c < a.channels; c += kLanes) {
    const int64_t lanes = a.channels - c < kLanes ? a.channels - c : kLanes;
    for (int64_t t = 0; t < taps; ++t) {
      float* dw = a.dw + (c / kBlock * taps + t) * kBlock + c % kBlock;
      const float* from = a.x + t / any.kernel_w * a.x_row_stride +
                          t % any.kernel_w * any.dilation * a.x_stride + c;
      Vec acc = load_n(dw, lanes);
      for (int64_t i = 0; i < a.rows; ++i) {
        for (int64_t j = 0; j < a.columns; ++j) {
          acc = fma(load_n(from + i * a.x_row_step + j * any.stride * a.x_stride, lanes),
                    load_n(a.dy + i * a.dy_row_stride + j * a.dy_stride + c, lanes), acc);
        }
      }
      store_n(dw, acc, lanes);
    }
  }
}

// Results that no cache would hold until they are read go past it.
template <bool kStream, bool kTail>
inline void put_channels(float* p, Vec v, int64_t lanes) {
  if constexpr (kStream && !kTail) {
    stream(p, v);
  } else {
    store_channels<kTail>(p, v, lanes);
  }
}

inline bool can_stream(const float* p, int64_t stride) {
  return kStreams && reinterpret_cast<uintptr_t>(p) % (kLanes * sizeof(float)) == 0 &&
         stride % kLanes == 0;
}

template <bool kStream>
inline void copy(const CopyArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    const float* x = a.x + p * a.x_stride;
    float* y = a.y + p * a.y_stride;
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      put_channels<kStream, false>(y + c, load(x + c), kLanes);
    }
    if (c < a.channels) store_n(y + c, load_n(x + c, a.channels - c), a.channels - c);
  }
}

void copy_f32(const CopyArgs& a) {
  if (a.stream && can_stream(a.y, a.pixels > 1 ? a.y_stride : 0)) {
    copy<true>(a);
    stream_fence();
  } else {
    copy<false>(a);
  }
}

void block_copy_f32(const BlockCopyArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    const float* x = a.x + p * a.x_stride;
    float* y = a.y + p * kBlock;
    int64_t c = 0;
    for (; c + kBlock <= a.channels; c += kBlock, y += a.y_block_stride) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kBlock; i += kLanes) store(y + i, load(x + c + i));
    }
    for (; c < a.channels; c += kLanes) {
      const int64_t n = a.channels - c < kLanes ? a.channels - c : kLanes;
      store_n(y + c % kBlock, load_n(x + c, n), n);
    }
  }
}
