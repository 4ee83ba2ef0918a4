// Matrix product on pixels: 1 x 1 convolution (direct), dense convolution (through offsets).
//
// Register tile: kMr pixels x kFull blocks of 16 channels (+ a half block of 8). Per input channel
// a tile loads its weights once and broadcasts kMr inputs:
//   AVX2     6 x 16: 12 accumulators + 2 weights + 1 broadcast = 15 of 16 registers; 8 loads for 12
//            FMAs, two of each a cycle: the FMAs bound it. 4 x 24 (16 + a half block) has 12
//            accumulators too, so widths of 24, 40, 72, 88, 120, 184, 200 waste no lane.
//   AVX-512  14 x 32: 28 + 2 + 1 = 31 of 32; 14 divides the widths 112, 56, 28, 14. 14 x 24, two
//            pixels to a vector of the half block, for the widths above. strided_tiles.inl has the
//            loop.
//   NEON     6 x 16: 24 accumulators + 6 inputs + 2 weights = 32; aarch64_tiles.inl has the loop.
//            In order 5 x 16 = 27 of 32, as other small tiles: scheduled.inl.
// An FMA takes 4 cycles and two start in each: fewer than 8 accumulators wait for themselves. So
// the pixels are dealt out evenly (14 = 5 + 5 + 4, never 6 + 6 + 2), and one or two pixels (a
// linear layer) take more blocks at once. Every output is bias, then one FMA per input channel in
// order: results do not depend on the tile.

constexpr int64_t kLine = 64 / sizeof(Element);  // elements of a cache line
constexpr int kFullVecs = static_cast<int>(kBlock / kLanes);
constexpr int kHalfVecs = static_cast<int>(kLanes >= kHalfBlock ? 1 : kHalfBlock / kLanes);
// Lanes that a vector of a half block has to offer.
constexpr int64_t kHalfLanes = kLanes < kHalfBlock ? kLanes : kHalfBlock;

// Most pixels in a tile of `vecs` vectors: accumulators + weights + a broadcast in the registers;
// or, where loops are scheduled, accumulators + an input per pixel + two weights, and one to spare.
constexpr int max_mr(int vecs) {
#if defined(WEEBILL_TILES_IN_REGISTERS)
  const int mr = static_cast<int>(kRegisters - 2) / (vecs + 1);
#elif defined(WEEBILL_SCHEDULED)
  const int mr = static_cast<int>(kRegisters - 3) / (vecs + 1);
#else
  const int mr = static_cast<int>(kRegisters - vecs - 1) / vecs;
#endif
  const int cap = kLanes == 16 ? 14 : 8;
  return mr < 1 ? 1 : (mr > cap ? cap : mr);
}
constexpr int kMrOne = max_mr(kFullVecs);
constexpr int kMrOneHalf = max_mr(kFullVecs + kHalfVecs);
constexpr int kMrHalf = max_mr(kHalfVecs);
constexpr int kMrTwo = max_mr(2 * kFullVecs);
constexpr int kMrFour = max_mr(4 * kFullVecs);
// Two blocks at once pay where one leaves half of the registers empty.
constexpr bool kPairs = kFullVecs == 1;
// For one pixel, enough accumulators for the rate at which weights come. Not more: a core reads two
// streams from its last cache at 89 GB/s where it reads four at 67 (Zen 4).
constexpr int kBlocksOfOne = kPairs ? 2 : 4;

#if defined(WEEBILL_SCHEDULED)
#include "kernels/scheduled.inl"
// gcc 12 finds the tile of 4 x 24 too large to be inlined where it is called, once.
#define WEEBILL_INLINE_TILE __attribute__((always_inline))
#else
#define WEEBILL_INLINE_TILE
#endif

// Where the next pixel of a tile goes.
struct Cursor {
  Element* y;
  int64_t column;
  void next(const PointwiseArgs& a) {
    y += a.y_stride;
    if (++column == a.y_width) {
      column = 0;
      y += a.y_jump;
    }
  }
};

// What a processor does with operations on 512 bits that are no FMAs: some run beside those, or in
// two passes of 256 bits as FMAs do (Zen 4), or take the place of an FMA (Intel).
enum class Units { kFree, kHalves, kShared };

// `count` tiles of kMr pixels, one after the other.
struct Walk {
  const Element* x;
  int64_t x_stride;
  const Element* w;
  const Element* next_w;
  const Element* bias;
  const Element* residual;
  int64_t y_channel, channels;
  Cursor out;
};

#include "kernels/ahead.inl"
#if defined(WEEBILL_STRIDED_TILES) || defined(WEEBILL_STORE_APART)
#include "kernels/window_rows.inl"
#endif
#if defined(WEEBILL_STRIDED_TILES)
// clang-format off
#include "kernels/strided_tiles.inl"
#include "kernels/interleaved_tiles.inl"
#include "kernels/window_tiles.inl"
#include "kernels/interleaved_windows.inl"
// clang-format on
#endif

// One input channel of a tile: weights at w (blocks `block_stride` apart) and, of the half block,
// at w_half.
template <int kMr, int kFull, int kHalf, int kCount>
inline void multiply_add(Vec (&acc)[kCount], const Element* x, int64_t x_stride, const Element* w,
                         int64_t block_stride, const Element* w_half) {
  constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  static_assert(kCount == kMr * kVecs);
  Vec wv[kVecs];
#pragma GCC unroll 16
  for (int j = 0; j < kVecs; ++j) {
    const int block = j / kFullVecs;
    wv[j] = block < kFull ? load(w + block * block_stride + (j % kFullVecs) * kLanes)
                          : load_low(w_half + (j - kFull * kFullVecs) * kLanes);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    const Vec input = broadcast(x + i * x_stride);
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) accumulate(acc[i * kVecs + j], input, wv[j]);
  }
}

// One tile. `channels` of its outputs exist: all of them except in the last tile of a row of
// blocks.
//
// next_w walks over the weights of the next blocks, a line per four inputs: by the time they are
// wanted they are on their way, and a network's weights come from far away once per image.
template <int kMr, int kFull, int kHalf, bool kOffsets>
inline WEEBILL_INLINE_TILE void tile(const PointwiseArgs& a, const Element* x, int64_t x_stride,
                                     const Element* w, const Element* bias, Cursor& out,
                                     int64_t y_channel, const Element* residual, int64_t channels,
                                     const Element*& next_w) {
  constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  Vec acc[kMr * kVecs];
#pragma GCC unroll 16
  for (int j = 0; j < kVecs; ++j) {
    const bool half = j >= kFull * kFullVecs;
    const Vec b = half ? load_low(bias + kFull * kBlock + (j - kFull * kFullVecs) * kLanes)
                       : load(bias + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) acc[i * kVecs + j] = b;
  }
  // Four inputs at a time: the addresses of the pixels are worked out once for all four, which
  // leaves the front end room to run ahead of the FMAs into the next tile.
  const int64_t count = a.k;
  const int64_t block_stride = a.w_block_stride;
  int64_t k = 0;
  const Element* wf = w;
  const Element* wh = w + kFull * block_stride;
#if defined(WEEBILL_SCHEDULED)
  constexpr int64_t kUnroll = 1;  // what is left of the vectors
  if constexpr (!kOffsets) {
    k = multiply_add_vectors<kMr, kFull, kHalf>(acc, x, x_stride, wf, block_stride, wh, count,
                                                next_w);
    wf += k * kBlock;
    wh += k * kHalfBlock;
  }
#elif defined(WEEBILL_STRIDED_TILES)
  constexpr int64_t kUnroll = kOffsets ? 1 : 4;
  if constexpr (kMr > 2) {
    multiply_add_all<kMr, kFull, kHalf, kOffsets>(acc, a, x, x_stride, wf, next_w);
    k = count;
  }
#else
  constexpr int64_t kUnroll = kOffsets ? 1 : 4;
#endif
  for (; k + kUnroll <= count; k += kUnroll) {
    const Element* xk = kOffsets ? x + a.offsets[k] : x + k;
#pragma GCC unroll 4
    for (int64_t u = 0; u < kUnroll; ++u) {
      multiply_add<kMr, kFull, kHalf>(acc, xk + u, x_stride, wf + u * kBlock, block_stride,
                                      wh + u * kHalfBlock);
    }
    wf += kUnroll * kBlock;
    wh += kUnroll * kHalfBlock;
    if constexpr (kUnroll > 1 && kMr > 2) {  // one or two pixels read all weights at full speed
      prefetch(next_w);
      next_w += kLine;
    }
  }
  if constexpr (kUnroll > 1) {
    for (; k < count; ++k) {
      multiply_add<kMr, kFull, kHalf>(acc, x + k, x_stride, wf, block_stride, wh);
      wf += kBlock;
      wh += kHalfBlock;
    }
  }

#if defined(WEEBILL_STRIDED_TILES)
  if constexpr (kMr > 2) {
    Element values[kMr * kVecs * kLanes];
#pragma GCC unroll 32
    for (int i = 0; i < kMr * kVecs; ++i) store(values + i * kLanes, acc[i]);
    finish_pixels(a, values, kMr, kFull, kHalf, out, y_channel, residual, channels);
    return;
  }
#endif
  activate_all(acc, a.activation);
  const int64_t jump = kPairs ? a.y_block_jump : 0;  // elsewhere such tiles have one block
  // Every vector of the tile is wholly outputs.
  const bool whole = channels == kFull * kBlock + kHalf * kHalfBlock;
  if (whole && residual == nullptr && out.column + kMr < a.y_width) {
    // The common case, without a branch per pixel. Of its own: the compiler would read what a.
    // refers to again after every store.
    const int64_t y_stride = a.y_stride, y_vector = kLanes + jump;
    Element* y = out.y + y_channel;
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) {
        Element* to = y + i * y_stride + j * y_vector;
        if (j < kFull * kFullVecs) {
          store(to, acc[i * kVecs + j]);
        } else {
          store_low(to, acc[i * kVecs + j]);
        }
      }
    }
    out.y += kMr * y_stride;
    out.column += kMr;
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    Element* y = out.y + y_channel;
    const Element* r = residual + i * a.residual_stride;
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) {
      const bool half = j >= kFull * kFullVecs;
      const int64_t at = half ? kFull * kBlock + (j - kFull * kFullVecs) * kHalfLanes : j * kLanes;
      const int64_t lanes = half ? kHalfLanes : kLanes;
      Element* to = y + at + j * jump;
      Vec v = acc[i * kVecs + j];
      if (whole || at + lanes <= channels) {
        if (residual != nullptr) v = add(v, half ? load_low(r + at) : load(r + at));
        if (half) {
          store_low(to, v);
        } else {
          store(to, v);
        }
      } else {
        const int64_t left = channels - at;
        const int64_t n = left < 0 ? 0 : (left < lanes ? left : lanes);
        if (residual != nullptr) v = add(v, load_n(r + at, n));
        store_n(to, v, n);
      }
    }
    out.next(a);
  }
}

#if defined(WEEBILL_STORE_APART)
#include "kernels/whole_tiles.inl"
#elif defined(WEEBILL_TILES_IN_REGISTERS)
#include "kernels/aarch64_tiles.inl"
#endif

template <int kMr, int kFull, int kHalf, bool kOffsets>
__attribute__((noinline)) void tiles_of(const PointwiseArgs& a, Walk& walk, int64_t count) {
#if defined(WEEBILL_STORE_APART)
  if constexpr (kMr > 2 && kFull == 1 && kHalf == 0) {
    if (whole_tiles<kOffsets, kMr>(a, walk, count)) return;
  }
#elif defined(WEEBILL_STRIDED_TILES)
  if (whole_strided<kOffsets, kMr, kFull, kHalf>(a, walk, count)) return;
#elif defined(WEEBILL_TILES_IN_REGISTERS)
  if constexpr (kInRegisters<kMr, kFull, kHalf>) {
    return tiles_in_registers<kMr, kFull, kHalf, kOffsets>(a, walk, count);
  }
#endif
  Walk at = walk;
  for (; count > 0; --count) {
    tile<kMr, kFull, kHalf, kOffsets>(a, at.x, at.x_stride, at.w, at.bias, at.out, at.y_channel,
                                      at.residual, at.channels, at.next_w);
    at.x += kMr * at.x_stride;
    if (at.residual != nullptr) at.residual += kMr * a.residual_stride;
  }
  walk = at;
}

template <int kMrMax, int kFull, int kHalf, bool kOffsets>
inline void tiles_of_size(const PointwiseArgs& a, Walk& walk, int64_t mr, int64_t count) {
  switch (mr) {
#define WEEBILL_CASE(n)                                                             \
  case n:                                                                           \
    if constexpr (n <= kMrMax) tiles_of<n, kFull, kHalf, kOffsets>(a, walk, count); \
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
}

// Copies weights times the channel scale: `full` blocks and perhaps a half one, laid out as at w.
// Out of line: it is done once per column of tiles.
__attribute__((noinline)) const Element* scaled_weights(const PointwiseArgs& a, const Element* w,
                                                        int full, int half) {
  const int64_t k = a.k, stride = a.w_block_stride;
  const Element* const scale = a.scale;
  Element* const to = a.scratch;
  for (int64_t i = 0; i < k; ++i) {
    const Vec factor = broadcast(scale + i);
    for (int64_t at = i * kBlock, b = 0; b < full; ++b, at += stride) {
#pragma GCC unroll 4
      for (int64_t j = at; j < at + kBlock; j += kLanes) {
        store(to + j, mul(factor, load(w + j)));
      }
    }
    const int64_t at = full * stride + i * kHalfBlock;
    for (int64_t j = at; j < at + half * kHalfBlock; j += kHalfLanes) {
      store_low(to + j, mul(factor, load_low(w + j)));
    }
  }
  return to;
}

// All pixels of a block of pixels through one column of weight blocks.
template <int kMrMax, int kFull, int kHalf, bool kOffsets, Units kUnits = Units::kFree>
inline void column_of_tiles(const PointwiseArgs& a, const Element* x, int64_t x_stride, int64_t m,
                            int64_t first_pixel, int64_t block, int64_t channels) {
  const int64_t tiles = (m + kMrMax - 1) / kMrMax;
  const int64_t size = m / tiles;
  const int64_t larger = m % tiles;  // the first `larger` tiles have size + 1 pixels
  const int64_t start = a.y_column + first_pixel;
  Walk walk;
  walk.x = x;
  walk.x_stride = x_stride;
  const Element* const w = a.w + block * a.w_block_stride;
  walk.w = w;
  walk.next_w = fetch_from(a, w, w + (kFull + kHalf) * a.w_block_stride);
  if (!kOffsets && a.scale_weights) walk.w = scaled_weights(a, walk.w, kFull, kHalf);
  walk.bias = a.bias + block * kBlock;
  walk.residual = a.residual == nullptr
                      ? nullptr
                      : a.residual + first_pixel * a.residual_stride + block * kBlock;
  walk.y_channel = block * (kBlock + a.y_block_jump);
  walk.channels = channels;
  walk.out = {a.y + first_pixel * a.y_stride + start / a.y_width * a.y_jump, start % a.y_width};
#if defined(WEEBILL_STRIDED_TILES)
  if constexpr (kOffsets && kFull > 0 && kFull <= 2) {
    if (windows<kFull, kHalf, kUnits>(a, walk, m)) return;
  }
  if constexpr (kUnits == Units::kShared && !kOffsets && kFull == 1 && kHalf == 1) {
    const int64_t left = interleave_pixels(a, walk, m);
    if (left < m) {
      tiles_of_size<kMrMax, kFull, kHalf, kOffsets>(a, walk, left, 1);
      return fetched(a, w, walk.next_w);
    }
  }
#endif
  if (larger > 0) tiles_of_size<kMrMax, kFull, kHalf, kOffsets>(a, walk, size + 1, larger);
  tiles_of_size<kMrMax, kFull, kHalf, kOffsets>(a, walk, size, tiles - larger);
  fetched(a, w, walk.next_w);
}

// Copies the pixels times the channel scale: each input is scaled once, not once per weight block.
// What a. refers to would be read again after every store.
inline void scale_pixels(const PointwiseArgs& a, const Element* x, int64_t m) {
  const int64_t k = a.k, x_stride = a.x_stride;
  const Element* const scale = a.scale;
  Element* to = a.scratch;
  for (int64_t p = 0; p < m; ++p, x += x_stride, to += k) {
    int64_t i = 0;
    for (; i + 4 * kLanes <= k; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int64_t j = i; j < i + 4 * kLanes; j += kLanes) {
        store(to + j, mul(load(x + j), load(scale + j)));
      }
    }
    for (; i + kLanes <= k; i += kLanes) store(to + i, mul(load(x + i), load(scale + i)));
    if (i < k) store_n(to + i, mul(load_n(x + i, k - i), load_n(scale + i, k - i)), k - i);
  }
}

#if defined(WEEBILL_NARROW_TAILS)
// The columns from block b on by the kernels of AVX2.
template <bool kOffsets>
inline void avx2_columns_from(int64_t b, const PointwiseArgs& a, const Element* x, int64_t x_stride,
                              int64_t m, int64_t p) {
  const int64_t start = a.y_column + p;
  PointwiseArgs rest = a;
  rest.x = x;
  rest.x_stride = x_stride;
  rest.w += b * a.w_block_stride;
  rest.bias += b * kBlock;
  rest.y += p * a.y_stride + start / a.y_width * a.y_jump + b * (kBlock + a.y_block_jump);
  rest.y_column = start % a.y_width;
  if (a.residual != nullptr) rest.residual += p * a.residual_stride + b * kBlock;
  if (!a.scale_weights) rest.scale = nullptr;  // the pixels at x have it
  rest.m = m;
  rest.n -= b * kBlock;
  (kOffsets ? avx2::kTable.conv2d_f32 : avx2::kTable.pointwise_f32)(rest);
}
#endif

// Units::kHalves: columns that are less than two blocks by the kernels of AVX2, but for one block
// of windows.
template <bool kOffsets, Units kUnits = Units::kFree>
inline void product(const PointwiseArgs& a) {
  const int64_t whole_blocks = a.n / kBlock + (a.n % kBlock > kHalfBlock ? 1 : 0);
  const int64_t blocks = (a.n + kBlock - 1) / kBlock;
  const bool adjacent = a.y_block_jump == 0;  // only tiles of two blocks know of another
  for (int64_t p = 0; p < a.m; p += a.m_block) {
    const int64_t m = a.m - p < a.m_block ? a.m - p : a.m_block;
    const Element* x = a.x + p * a.x_stride;
    int64_t x_stride = a.x_stride;
    if (a.scale != nullptr && !a.scale_weights) {
      scale_pixels(a, x, m);
      x = a.scratch;
      x_stride = a.k;
    }
    for (int64_t b = 0; b < blocks;) {
      const int64_t whole = whole_blocks - b;
      const int64_t left = a.n - b * kBlock;
      auto channels = [left](int64_t width) { return left < width ? left : width; };
      if (!kOffsets && m == 1 && whole >= kBlocksOfOne && adjacent) {
        column_of_tiles<1, kBlocksOfOne, 0, kOffsets>(a, x, x_stride, m, p, b,
                                                      channels(kBlocksOfOne * kBlock));
        b += kBlocksOfOne;
      } else if (!kOffsets && kPairs && m <= kMrFour && whole >= 4 && adjacent) {
        column_of_tiles<kMrFour, 4, 0, kOffsets>(a, x, x_stride, m, p, b, channels(4 * kBlock));
        b += 4;
      } else if ((kPairs ? whole != 2 || blocks - b != 3 : !kOffsets && m <= kMrTwo && adjacent) &&
                 whole >= 2) {
        column_of_tiles<kMrTwo, 2, 0, kOffsets>(a, x, x_stride, m, p, b, channels(2 * kBlock));
        b += 2;
#if defined(WEEBILL_NARROW_TAILS)
      } else if (kUnits == Units::kHalves && !(kOffsets && whole == 1 && blocks - b == 1)) {
        avx2_columns_from<kOffsets>(b, a, x, x_stride, m, p);
        b = blocks;
#endif
      } else if (whole == 1 && blocks - b == 2) {
        column_of_tiles<kMrOneHalf, 1, 1, kOffsets, kUnits>(a, x, x_stride, m, p, b,
                                                            channels(kBlock + kHalfBlock));
        b += 2;
      } else if (whole >= 1) {
        column_of_tiles<kMrOne, 1, 0, kOffsets, kUnits>(a, x, x_stride, m, p, b, channels(kBlock));
        b += 1;
      } else {
        column_of_tiles<kMrHalf, 0, 1, kOffsets>(a, x, x_stride, m, p, b, channels(kHalfBlock));
        b += 1;
      }
    }
  }
}

void WEEBILL_TYPED(pointwise)(const PointwiseArgs& a) { product<false>(a); }

#if !defined(WEEBILL_NARROW_LOADS)  // which the loop through offsets has none of
void WEEBILL_TYPED(conv2d)(const PointwiseArgs& a) { product<true>(a); }
#endif
