// Gradient of a pointwise convolution by its weight: X^T dY, a sum over pixels of outer products.
//
// The same register tile as the forward's with the roles changed: a tile is kMr output channels by
// a panel of input channels, and per pixel it loads the panel once and broadcasts kMr values of dy.
// AVX2 6 x 16 and 8 x 8, AVX-512 14 x 32, NEON 6 x 16. A pixel's channels are contiguous in both
// operands, so nothing is packed: a block of pixels stays in the second cache, a panel of it in the
// first. The tile is added to memory once per block of pixels.

constexpr int kPanelVecs = kLanes == 4 ? 4 : 2;

template <int kMr, int kVecs, bool kTail>
inline void outer_products(const PointwiseWeightGradArgs& a, int64_t pixel, int64_t pixels,
                           int64_t output, int64_t input, int64_t last_lanes) {
  Vec acc[kMr * kVecs];
#pragma GCC unroll 32
  for (int i = 0; i < kMr * kVecs; ++i) acc[i] = zero();
  const float* x = a.x + pixel * a.x_stride + input;
  const float* dy = a.dy + pixel * a.dy_stride + output;
  for (int64_t p = 0; p < pixels; ++p) {
    Vec panel[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      panel[j] =
          kTail && j == kVecs - 1 ? load_n(x + j * kLanes, last_lanes) : load(x + j * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      const Vec grad = broadcast(dy + i);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) accumulate(acc[i * kVecs + j], grad, panel[j]);
    }
    x += a.x_stride;
    dy += a.dy_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    float* dw = a.dw + (output + i) * a.dw_stride + input;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      float* to = dw + j * kLanes;
      if (kTail && j == kVecs - 1) {
        store_n(to, add(load_n(to, last_lanes), acc[i * kVecs + j]), last_lanes);
      } else {
        store(to, add(load(to), acc[i * kVecs + j]));
      }
    }
  }
}

/// All output channels against one panel of a block of pixels, dealt out evenly.
template <int kVecs, bool kTail>
__attribute__((noinline)) void outer_panel(const PointwiseWeightGradArgs& a, int64_t pixel,
                                           int64_t pixels, int64_t input, int64_t last_lanes) {
  constexpr int kMost = max_mr(kVecs);
  const int64_t tiles = (a.n + kMost - 1) / kMost;
  const int64_t size = a.n / tiles, larger = a.n % tiles;
  int64_t output = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t mr = size + (t < larger ? 1 : 0);
    switch (mr) {
#define WEEBILL_CASE(n)                                                             \
  case n:                                                                           \
    if constexpr (n <= kMost) {                                                     \
      outer_products<n, kVecs, kTail>(a, pixel, pixels, output, input, last_lanes); \
    }                                                                               \
    break;
      WEEBILL_CASE(1)
      WEEBILL_CASE(2)
      WEEBILL_CASE(3)
      WEEBILL_CASE(4)
      WEEBILL_CASE(5)
      WEEBILL_CASE(6)
      WEEBILL_CASE(7)
      WEEBILL_CASE(8)
      WEEBILL_CASE(9)
      WEEBILL_CASE(10)
      WEEBILL_CASE(11)
      WEEBILL_CASE(12)
      WEEBILL_CASE(13)
      WEEBILL_CASE(14)
#undef WEEBILL_CASE
      default:
        break;
    }
    output += mr;
  }
}

template <int kVecs>
inline void outer_panel_of(const PointwiseWeightGradArgs& a, int64_t pixel, int64_t pixels,
                           int64_t input, int64_t width) {
  if (width == kVecs * kLanes) {
    outer_panel<kVecs, false>(a, pixel, pixels, input, kLanes);
  } else {
    outer_panel<kVecs, true>(a, pixel, pixels, input, width - (kVecs - 1) * kLanes);
  }
}

void pointwise_backward_weight_f32(const PointwiseWeightGradArgs& a) {
  constexpr int64_t kPanel = kPanelVecs * kLanes;
  for (int64_t pixel = 0; pixel < a.m; pixel += a.m_block) {
    const int64_t pixels = a.m - pixel < a.m_block ? a.m - pixel : a.m_block;
    for (int64_t input = 0; input < a.k; input += kPanel) {
      const int64_t width = a.k - input < kPanel ? a.k - input : kPanel;
      switch ((width + kLanes - 1) / kLanes) {
        case 1:
          outer_panel_of<1>(a, pixel, pixels, input, width);
          break;
        case 2:
          outer_panel_of<2>(a, pixel, pixels, input, width);
          break;
        case 3:
          if constexpr (kPanelVecs > 2) outer_panel_of<3>(a, pixel, pixels, input, width);
          break;
        default:
          if constexpr (kPanelVecs > 2) outer_panel_of<4>(a, pixel, pixels, input, width);
          break;
      }
    }
  }
}
