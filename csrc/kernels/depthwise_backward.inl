// Gradients of a depthwise convolution by its input and by its weight at once, vectorised over
// channels.
//
// Both are sums of products with the same values of dy: dx(i) takes those that window positions
// reach x(i) from, times the taps, and each tap's gradient takes the same ones times x(i). A tile
// is some columns of dx by one vector of channels: per row of the window every dy vector is loaded
// once and goes into two FMAs for each tap that it meets. The columns of dx and of x stay in
// registers, and a row's taps' sums for as long as that row lasts (4 + 4 + 3 and the taps, of 16
// registers for 3x3); sums and taps of all channels come from the first cache. x and dx are read
// and written where they are, once. For stride 2 even and odd columns of the tile have their own
// taps, so that no tap of a zero-stuffed row is computed. Everything about a tile but its place is
// known when it is compiled, also whether it starts at an even or an odd position of the padded
// row, and which of its columns of dy lie outside of the row. A last vector that is not whole still
// has whole vectors of taps and sums: what was stored under a mask is slow to load again.

// In the place of the pixels of dy beside a row.
alignas(64) constexpr float kNoGradient[kLanes] = {};

// Results that no cache would hold until they are read go past it.
template <bool kStream, bool kTail>
inline void put_channels(float* p, Vec v, int64_t lanes) {
  if constexpr (kStream && !kTail) {
    stream(p, v);
  } else {
    store_channels<kTail>(p, v, lanes);
  }
}

// With 32 registers 7 columns, of which the widths 112 to 7 are multiples; for stride 2, whose
// tiles start at even columns, 8.
template <int kStride>
constexpr int kGradColumns = kRegisters < 32 ? 4
                             : kStride == 1  ? 7
                                             : 8;

/// The tile's lines of the rows that come next, to the second cache: memory does not rest during
/// the arithmetic.
template <int kStride, int kColumns>
inline __attribute__((always_inline)) void fetch_ahead(const RowsAhead& ahead, int64_t column,
                                                       int64_t c) {
  if (c % kBlock != 0) return;
  if (ahead.x != nullptr) {
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) prefetch(ahead.x + (column + t) * ahead.stride + c);
  }
  if (ahead.dy != nullptr) {
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; t += kStride) {
      prefetch(ahead.dy + (column + t) / kStride * ahead.stride + c);
    }
  }
}

// The first and the last column of dy that any column of a tile meets, from that of its first on.
// kOdd: (first + column) % stride of the tile's first column.
template <int kKernel, int kStride, int kOdd>
constexpr int kFirstGrad = -((kKernel - 1 - kOdd) / kStride);
template <int kStride, int kOdd, int kColumns>
constexpr int kLastGrad = (kOdd + kColumns - 1) / kStride;

// The columns of dy that a tile goes without at the ends of a row: as many as `same` padding has
// there, known when it is compiled, or any, which are looked for.
template <int kLeftOut, int kRightOut, bool kAny = false>
struct RowEnds {
  static constexpr int kLeft = kLeftOut, kRight = kRightOut;
  static constexpr bool kLooks = kAny;
};

struct GradRow : DepthwiseGradArgs {
  HalfLines* lines;  // or nullptr
};

template <int kKernel, int kStride, int kOdd, int kColumns, typename Ends, bool kTail>
inline void grad_tile(const GradRow& a, int64_t column, int64_t c, int64_t lanes) {
  Vec dx[kColumns], x[kColumns];
  const float* from = a.x + column * a.x_stride + c;
#pragma GCC unroll 16
  for (int t = 0; t < kColumns; ++t) {
    x[t] = load_channels<kTail>(from + t * a.x_stride, lanes);
    dx[t] = zero();
  }
  const int64_t tap =
      c / kBlock * (kKernel * kKernel * kBlock) + c % kBlock + a.first_row * kKernel * kBlock;
  const int64_t step = a.row_step * kKernel * kBlock;
  const float* w = a.w + tap;
  float* dw = a.dw + tap;
  constexpr int kFirst = kFirstGrad<kKernel, kStride, kOdd> + Ends::kLeft;
  constexpr int kLast = kLastGrad<kStride, kOdd, kColumns> - Ends::kRight;
  const int64_t middle = (a.first + column) / kStride;
  const int64_t at = (middle + kFirst) * a.dy_stride + c;
  for (int64_t r = 0; r < a.rows; ++r, w += step, dw += step) {
    const float* dy = a.dy_rows[r] + at;
    Vec taps[kKernel], sums[kKernel];
#pragma GCC unroll 8
    for (int v = 0; v < kKernel; ++v) {
      taps[v] = load(w + v * kBlock);
      sums[v] = load(dw + v * kBlock);
    }
#pragma GCC unroll 32
    for (int j = kFirst; j <= kLast; ++j, dy += a.dy_stride) {
      const bool inside =
          !Ends::kLooks || static_cast<uint64_t>(middle + j) < static_cast<uint64_t>(a.dy_columns);
      const Vec grad = load_channels<kTail>(inside ? dy : kNoGradient, lanes);
#pragma GCC unroll 16
      for (int t = 0; t < kColumns; ++t) {
        const int v = kOdd + t - j * kStride;
        if (v < 0 || v >= kKernel) continue;
        accumulate(dx[t], grad, taps[v]);
        accumulate(sums[v], grad, x[t]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kKernel; ++v) store(dw + v * kBlock, sums[v]);
  }
  fetch_ahead<kStride, kColumns>(a.ahead, column, c);
  float* to = a.dx + column * a.dx_stride + c;
  if constexpr (kPutsLinesTogether && kColumns == kGradColumns<kStride>) {
    if (a.lines != nullptr) {
      if (column % 2 == 0) {
        stream_half_lines<kColumns, 0>(*a.lines, to, a.dx_stride, dx, c == 0, kTail);
      } else {
        stream_half_lines<kColumns, 1>(*a.lines, to, a.dx_stride, dx, c == 0, kTail);
      }
      return;
    }
  }
  if (a.stream && !kTail) {
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) stream(to + t * a.dx_stride, dx[t]);
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) store_channels<kTail>(to + t * a.dx_stride, dx[t], lanes);
  }
}

// `tiles` of them from a column on.
template <int kKernel, int kStride, int kOdd, int kColumns, typename Ends>
__attribute__((noinline)) void grad_tiles(const GradRow& args, int64_t column, int64_t tiles) {
  const GradRow a = args;  // a copy that the stores can't change stays in registers
  for (; tiles > 0; --tiles, column += kColumns) {
    int64_t c = a.first_channel;
    for (; c + kLanes <= a.channels; c += kLanes) {
      grad_tile<kKernel, kStride, kOdd, kColumns, Ends, false>(a, column, c, kLanes);
    }
    if (c < a.channels) {
      grad_tile<kKernel, kStride, kOdd, kColumns, Ends, true>(a, column, c, a.channels - c);
    }
  }
}

// Tiles from a column on, of which at least one fits before column `end`: the next ones that lie
// alike in the row. Returns the column behind them.
template <int kKernel, int kStride, int kOdd, int kColumns>
inline int64_t grad_columns(const GradRow& a, int64_t column, int64_t end) {
  const int64_t middle = (a.first + column) / kStride;
  const int64_t left = -(middle + kFirstGrad<kKernel, kStride, kOdd>);
  const int64_t right = middle + kLastGrad<kStride, kOdd, kColumns> - (a.dy_columns - 1);
  const auto run = [&](auto ends, int64_t tiles) {
    grad_tiles<kKernel, kStride, kOdd, kColumns, decltype(ends)>(a, column, tiles);
    return column + tiles * kColumns;
  };
  if (left <= 0 && right <= 0) {
    const int64_t fit = (end - column) / kColumns, inside = -right * kStride / kColumns + 1;
    return run(RowEnds<0, 0>{}, fit < inside ? fit : inside);
  }
  if constexpr (kColumns == kGradColumns<kStride>) {
    constexpr int kLeft = kKernel / 2 / kStride, kRight = kStride == 1 ? kKernel / 2 : 1;
    if (left <= 0 && right == kRight) return run(RowEnds<0, kRight>{}, 1);
    if (left == kLeft && right <= 0) return run(RowEnds<kLeft, 0>{}, 1);
    if (left == kLeft && right == kRight) return run(RowEnds<kLeft, kRight>{}, 1);
  }
  return run(RowEnds<0, 0, true>{}, 1);
}

template <int kKernel, int kStride, int kOdd>
inline void grad_row(const GradRow& a) {
  constexpr int kColumns = kGradColumns<kStride>;
  static_assert(kColumns % kStride == 0);  // the tiles that follow start at the same phase
  int64_t i = 0;
  while (i + kColumns <= a.columns) {
    i = grad_columns<kKernel, kStride, kOdd, kColumns>(a, i, a.columns);
  }
  if (kColumns > 4 && i + 4 <= a.columns) {
    i = grad_columns<kKernel, kStride, kOdd, 4>(a, i, i + 4);
  }
  if (i + 2 <= a.columns) i = grad_columns<kKernel, kStride, kOdd, 2>(a, i, i + 2);
  if (i < a.columns) grad_columns<kKernel, kStride, kOdd, 1>(a, i, a.columns);
}

template <int kKernel, int kStride>
inline void depthwise_backward(const DepthwiseGradArgs& args) {
  constexpr int kColumns = kGradColumns<kStride>;
  HalfLines half_lines;
  GradRow a = {args, nullptr};
  const bool halves = a.stream && a.first_channel == 0 && a.columns % 2 == 0 &&
                      a.columns % kColumns == 0 && fits_half_lines(a.dx, a.dx_stride, a.channels);
  if (halves) a.lines = &half_lines;
  a.stream = a.stream && can_stream(a.dx, a.columns > 1 ? a.dx_stride : 0);
  if (kStride == 1 || a.first % kStride == 0) {
    grad_row<kKernel, kStride, 0>(a);
  } else {
    grad_row<kKernel, kStride, kStride - 1>(a);
  }
}

void depthwise_backward_k3s1_f32(const DepthwiseGradArgs& a) { depthwise_backward<3, 1>(a); }
void depthwise_backward_k3s2_f32(const DepthwiseGradArgs& a) { depthwise_backward<3, 2>(a); }
void depthwise_backward_k5s1_f32(const DepthwiseGradArgs& a) { depthwise_backward<5, 1>(a); }
void depthwise_backward_k5s2_f32(const DepthwiseGradArgs& a) { depthwise_backward<5, 2>(a); }

void depthwise_backward_any_f32(const DepthwiseGradAnyArgs& any) {
  const DepthwiseGradArgs& a = any.common;
  const int64_t taps = any.kernel_h * any.kernel_w;
  for (int64_t i = 0; i < a.columns; ++i) {
    for (int64_t c = a.first_channel; c < a.channels; c += kLanes) {
      const int64_t lanes = a.channels - c < kLanes ? a.channels - c : kLanes;
      const int64_t block = c / kBlock * (taps * kBlock) + c % kBlock;
      const Vec x = load_n(a.x + i * a.x_stride + c, lanes);
      Vec dx = zero();
      for (int64_t v = 0; v < any.kernel_w; ++v) {
        const int64_t at = a.first + i - v * any.dilation;
        if (at < 0 || at % any.stride != 0 || at / any.stride >= a.dy_columns) continue;
        for (int64_t r = 0; r < a.rows; ++r) {
          const int64_t tap = block + ((a.first_row + r * a.row_step) * any.kernel_w + v) * kBlock;
          const Vec grad = load_n(a.dy_rows[r] + at / any.stride * a.dy_stride + c, lanes);
          dx = fma(grad, load_n(a.w + tap, lanes), dx);
          store_n(a.dw + tap, fma(grad, x, load_n(a.dw + tap, lanes)), lanes);
        }
      }
      store_n(a.dx + i * a.dx_stride + c, dx, lanes);
    }
  }
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
