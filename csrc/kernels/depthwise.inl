// Depthwise convolution of one output row, vectorised over channels.
//
// Tile: 7 output columns of one vector of channels; 7 divides the widths 112, 56, 28, 14 and 7, and
// other widths end in a narrower one. Per kernel row each input vector is loaded once and used for
// every tap that needs it: 3x3 stride 1 loads 9 inputs + 3 weights for 21 FMAs, 5x5 11 + 5 for 35,
// stride 2 15 + 3 and 17 + 5: with two loads and two FMAs a cycle the FMAs bound them all. What is
// left is to keep all other instructions few: strided.inl, scheduled.inl, and for 32 registers of
// 16 lanes depthwise_tiles.inl, whose tiles are wider. Cores that issue in order have
// in_order_depthwise.inl. Each output is bias, then one FMA per tap in
// row order: results do not depend on the tile.

// Straight code for a tile with all its rows inside the image. Where an instruction takes any of
// the inputs as an operand, a loop over the rows costs nothing and is a third of the code.
#if defined(WEEBILL_STRIDED)
#include "kernels/strided.inl"
constexpr bool kUnrollRows = false;
#elif !defined(WEEBILL_STRIDED_TILES)
constexpr bool kUnrollRows = true;
#endif

// The vector of channels that starts at c: whole, or the last one with n lanes.
template <bool kTail>
inline Vec load_channels(const Element* p, int64_t n) {
  if constexpr (kTail) return load_n(p, n);
  (void)n;
  return load(p);
}

template <bool kTail>
inline void store_sum(float* p, Sum v, int64_t n) {
  if constexpr (kTail) {
    store_sum_n(p, v, n);
  } else {
    store_sum(p, v);
  }
}

template <bool kTail>
inline void store_channels(Element* p, Vec v, int64_t n) {
  if constexpr (kTail) {
    store_n(p, v, n);
  } else {
    store(p, v);
  }
}

// Whether pixels can be stored past the caches.
inline bool can_stream(const Element* p, int64_t stride) {
  return kStreams && reinterpret_cast<uintptr_t>(p) % (kLanes * sizeof(Element)) == 0 &&
         stride % kLanes == 0;
}

// One kernel row: x at the input of column 0 and tap 0, w at tap 0.
template <int kKernel, int kStride, bool kTail, int kColumns>
inline void kernel_row(Vec (&acc)[kColumns], const Element* x, int64_t x_stride, const Element* w,
                       int64_t lanes) {
  constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
#if defined(WEEBILL_DEPTHWISE_ROW)
  if constexpr (!kTail) return depthwise_kernel_row<kKernel, kStride>(acc, x, x_stride, w);
#endif
  Vec taps[kKernel];
#pragma GCC unroll 8
  for (int v = 0; v < kKernel; ++v) taps[v] = load_channels<kTail>(w + v * kBlock, lanes);
#pragma GCC unroll 32
  for (int i = 0; i < kInputs; ++i) {
    const Vec input = load_channels<kTail>(x + i * x_stride, lanes);
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) {
      const int v = i - t * kStride;
      if (v >= 0 && v < kKernel) accumulate(acc[t], input, taps[v]);
    }
  }
}

// w: tap 0 of the first row for channel c.
template <int kKernel, int kStride, int kColumns, bool kTail, bool kAllRows>
inline void depthwise_tile(const DepthwiseArgs& a, const Element* w, int64_t first_column,
                           int64_t c, int64_t lanes) {
  Vec acc[kColumns];
  const Vec bias = load_channels<kTail>(a.bias + c, lanes);
#pragma GCC unroll 16
  for (int t = 0; t < kColumns; ++t) acc[t] = bias;

  const int64_t x_stride = a.x_stride;
  const int64_t x_at = first_column * kStride * x_stride + c;
  if constexpr (kAllRows) {
#pragma GCC unroll 8
    for (int u = 0; u < kKernel; ++u, w += kKernel * kBlock) {
      kernel_row<kKernel, kStride, kTail>(acc, a.x_rows[u] + x_at, x_stride, w, lanes);
    }
  } else {
#pragma GCC unroll 1
    for (int64_t u = 0; u < a.rows; ++u, w += kKernel * kBlock) {
      kernel_row<kKernel, kStride, kTail>(acc, a.x_rows[u] + x_at, x_stride, w, lanes);
    }
  }

  activate_all(acc, a.activation);
  Element* y = a.y + first_column * a.y_stride + c;
#pragma GCC unroll 16
  for (int t = 0; t < kColumns; ++t) {
    store_channels<kTail>(y, acc[t], lanes);
    y += a.y_stride;
#if defined(WEEBILL_STRIDED)
    hide(y);
#endif
  }
  if (a.sum != nullptr) {
    Sum sum = kTail ? load_sum_n(a.sum + c, lanes) : load_sum(a.sum + c);
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) sum = add_to(sum, acc[t]);
    store_sum<kTail>(a.sum + c, sum, lanes);
  }
}

// Tiles from column first to column last, each with its channels from first_channel on, a multiple
// of kLanes.
template <int kKernel, int kStride, int kColumns, bool kAllRows>
inline void depthwise_columns(const DepthwiseArgs& args, int64_t first_channel, int64_t first,
                              int64_t last) {
  const DepthwiseArgs a = args;  // a copy that the stores to y can't change stays in registers
  constexpr int64_t kBlockTaps = kKernel * kKernel * kBlock;
  for (int64_t j = first; j < last; j += kColumns) {
    const Element* w = a.w + first_channel / kBlock * kBlockTaps + first_channel % kBlock +
                       a.first_row * kKernel * kBlock;
    int64_t c = first_channel;
    while (c + kLanes <= a.channels) {
      depthwise_tile<kKernel, kStride, kColumns, false, kAllRows>(a, w, j, c, kLanes);
      c += kLanes;
      w += c % kBlock == 0 ? kBlockTaps - (kBlock - kLanes) : kLanes;
    }
#if !defined(WEEBILL_NARROW_TAILS)
    if (c < a.channels) {
      depthwise_tile<kKernel, kStride, kColumns, true, false>(a, w, j, c, a.channels - c);
    }
#endif
  }
}

#if defined(WEEBILL_STRIDED_TILES)
#include "kernels/depthwise_tiles.inl"
#else
constexpr bool kLeavesZerosOut = false;
#endif

// Columns from j on, less than a tile.
template <int kKernel, int kStride>
inline void depthwise_rest(const DepthwiseArgs& a, int64_t first_channel, int64_t j) {
  switch (a.columns - j) {
#define WEEBILL_CASE(n)                                                            \
  case n:                                                                          \
    depthwise_columns<kKernel, kStride, n, false>(a, first_channel, j, a.columns); \
    break;
    WEEBILL_CASE(1)
    WEEBILL_CASE(2)
    WEEBILL_CASE(3)
    WEEBILL_CASE(4)
    WEEBILL_CASE(5)
    WEEBILL_CASE(6)
#undef WEEBILL_CASE
    default:
      break;
  }
}

template <int kKernel, int kStride>
inline void depthwise_row(const DepthwiseArgs& a, int64_t first_channel) {
#if defined(WEEBILL_STRIDED_TILES)
  if (a.columns >= kFewColumns) return strided_depthwise_row<kKernel, kStride>(a);
  const int64_t j = 0;
#else
  const int64_t j = a.columns - a.columns % 7;
  if (kUnrollRows && a.rows == kKernel) {
    depthwise_columns<kKernel, kStride, 7, kUnrollRows>(a, first_channel, 0, j);
  } else {
    depthwise_columns<kKernel, kStride, 7, false>(a, first_channel, 0, j);
  }
#endif
  depthwise_rest<kKernel, kStride>(a, first_channel, j);
}

template <int kKernel, int kStride>
inline void depthwise(const DepthwiseArgs& a) {
#if defined(WEEBILL_NARROW_TAILS)
  const int64_t whole = a.channels / kLanes * kLanes;
  const bool halves = a.columns >= kFewColumns && a.channels - whole == kHalfBlock;
  if (whole > 0 || halves) depthwise_row<kKernel, kStride>(a, 0);
  if (whole < a.channels && !halves) narrow::depthwise_row<kKernel, kStride>(a, whole);
#else
  depthwise_row<kKernel, kStride>(a, 0);
#endif
}

void WEEBILL_TYPED(depthwise_k3s1)(const DepthwiseArgs& a) { depthwise<3, 1>(a); }
void WEEBILL_TYPED(depthwise_k3s2)(const DepthwiseArgs& a) { depthwise<3, 2>(a); }
void WEEBILL_TYPED(depthwise_k5s1)(const DepthwiseArgs& a) { depthwise<5, 1>(a); }
void WEEBILL_TYPED(depthwise_k5s2)(const DepthwiseArgs& a) { depthwise<5, 2>(a); }

template <bool kTail>
inline void depthwise_any_tile(const DepthwiseAnyArgs& any, int64_t column, int64_t c,
                               int64_t lanes) {
  const DepthwiseArgs& a = any.common;
  const Element* w = a.w + c / kBlock * (any.kernel_h * any.kernel_w * kBlock) + c % kBlock +
                     (a.first_row * any.kernel_w + any.first_tap) * kBlock;
  Vec acc[1] = {load_channels<kTail>(a.bias + c, lanes)};
  for (int64_t u = 0; u < a.rows; ++u) {
    const Element* x = a.x_rows[u] + column * any.stride * a.x_stride + c;
    for (int64_t v = 0; v < any.taps; ++v) {
      acc[0] = fma(load_channels<kTail>(x + v * any.dilation * a.x_stride, lanes),
                   load_channels<kTail>(w + (u * any.kernel_w + v) * kBlock, lanes), acc[0]);
    }
  }
  activate_all(acc, a.activation);
  store_channels<kTail>(a.y + column * a.y_stride + c, acc[0], lanes);
  if (a.sum != nullptr) {
    const Sum sum = kTail ? load_sum_n(a.sum + c, lanes) : load_sum(a.sum + c);
    store_sum<kTail>(a.sum + c, add_to(sum, acc[0]), lanes);
  }
}

void WEEBILL_TYPED(depthwise_any)(const DepthwiseAnyArgs& any) {
  const int64_t channels = any.common.channels;
  for (int64_t j = 0; j < any.common.columns; ++j) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) depthwise_any_tile<false>(any, j, c, kLanes);
    if (c < channels) depthwise_any_tile<true>(any, j, c, channels - c);
  }
}
