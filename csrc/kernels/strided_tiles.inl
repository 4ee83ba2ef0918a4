// The loop of a product's tile where the pixels are operands base + scale * index of
// simd/strided.h, with 32 registers of 16 lanes: 14 x 32 takes 191 instructions for the 112 FMAs of
// four inputs, 14 x 24 131, 14 x 16 68 for 56. Left to itself gcc 12 takes 223 and 129, and keeps
// eight accumulators and most addresses on the stack: 14 x 24 ran at 66 % of a Zen 4's peak instead
// of 94.

// kInputs inputs. w are the weights of each whole block, w_half those of the half block behind
// them.
template <int kMr, int kFull, int kHalf, int kInputs, int kCount>
inline __attribute__((always_inline)) void multiply_add_strided(Vec (&acc)[kCount],
                                                                const Strided& x,
                                                                const float* const* w,
                                                                const float* w_half) {
  constexpr int kVecs = kFull + kHalf;
  static_assert(kFullVecs == 1 && kCount == kMr * kVecs);
  unrolled<0, kInputs>([&](auto u) __attribute__((always_inline)) {
    constexpr int kInput = decltype(u)::value;
    Vec wv[kVecs];
    unrolled<0, kFull>([&](auto j) __attribute__((always_inline)) {
      constexpr int kBlockOf = decltype(j)::value;
      wv[kBlockOf] = load_now<kInput * kBlock>(w[kBlockOf]);
    });
    if constexpr (kHalf > 0) wv[kFull] = load_half_now<kInput * kHalfBlock>(w_half);
    // A broadcast of its own pays where two whole vectors take it. Behind one, FMAs of 512 and 256
    // bits in turn ran at 90 % of Zen 4's peak; each with its own, at 100 %.
    constexpr bool kShared = kFull > 1;
    unrolled<0, kMr>([&](auto i) __attribute__((always_inline)) {
      constexpr int kPixel = decltype(i)::value;
      Vec input;
      if constexpr (kShared) input = broadcast_now<kPixel, kInput>(x);
      unrolled<0, kFull>([&](auto j) __attribute__((always_inline)) {
        constexpr int kVec = decltype(j)::value;
        if constexpr (kShared) {
          accumulate_now(acc[kPixel * kVecs + kVec], input, wv[kVec]);
        } else {
          accumulate_now<kPixel, kInput>(acc[kPixel * kVecs + kVec], x, wv[kVec]);
        }
      });
      if constexpr (kHalf > 0) {
        accumulate_half_now<kPixel, kInput>(acc[kPixel * kVecs + kFull], x, wv[kFull]);
      }
    });
  });
}

// The inputs that come by kInputs (behind an offset each, where there are offsets), counted in the
// result.
template <int kMr, int kFull, int kHalf, bool kOffsets, int kCount>
inline __attribute__((always_inline)) int64_t multiply_add_all(Vec (&acc)[kCount],
                                                               const PointwiseArgs& a,
                                                               const float* first, int64_t x_stride,
                                                               const float* w,
                                                               const float*& next_w) {
  constexpr int kInputs = kOffsets ? 1 : 4;
  Strided x(first, x_stride);
  const float* blocks[kFull + 1];
#pragma GCC unroll 16
  for (int j = 0; j <= kFull; ++j) blocks[j] = w + j * a.w_block_stride;
  const float* next = next_w;
  const int64_t* offset = a.offsets;
#pragma GCC unroll 32
  for (int i = 0; i < kCount; ++i) settle(acc[i]);
  const int64_t count = a.k;
  int64_t k = 0;
  for (; k + kInputs <= count; k += kInputs) {
    Strided at = x;
    if constexpr (kOffsets) {
      at.p = x.p + *offset;
      at.p9 = x.p9 + *offset++;
    }
    multiply_add_strided<kMr, kFull, kHalf, kInputs>(acc, at, blocks, blocks[kFull]);
#pragma GCC unroll 16
    for (int j = 0; j < kFull; ++j) blocks[j] = hidden(blocks[j] + kInputs * kBlock);
    if constexpr (kHalf > 0) blocks[kFull] = hidden(blocks[kFull] + kInputs * kHalfBlock);
    if constexpr (!kOffsets) {
      x.p += kInputs;
      x.p9 += kInputs;
      // The images of 7 x 7 are four tiles, which is how often the next weights can be asked for.
      constexpr int kLines = kFull > 1 ? 2 : 1;
#pragma GCC unroll 2
      for (int i = 0; i < kLines; ++i) prefetch(next + i * kLine);
      next += kLines * kLine;
    }
  }
  next_w = next;
  return k;
}
