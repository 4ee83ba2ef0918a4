// Inner loops whose instructions stay in the order written here. Left to itself the compiler moves
// loads ahead until accumulators no longer fit in registers (gcc 12 spilled in every iteration),
// and a core that issues in order (Cortex-A53, A55) waits wherever a load is followed by its use.
// So each load stands a few FMAs before the first that needs it. Uses load_now and accumulate_now
// of simd/, which only instruction sets that define WEEBILL_SCHEDULED have.

// Four input channels of a tile, x[i] at kMr pixels: one load brings four inputs of a pixel, and
// FMAs take them lane by lane. A column of weights is loaded while the one before is multiplied:
// 5 x 16 takes 20 accumulators + 5 inputs + 2 weights, 4 x 24 takes 30 registers. 6 x 16 would take
// all 32; gcc 12 then spills ten times per iteration.
template <int kMr, int kFull, int kHalf, int kCount>
inline void multiply_add_four(Vec (&acc)[kCount], const float* x, int64_t x_stride, const float* w,
                              int64_t block_stride, const float* w_half) {
  constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  static_assert(kCount == kMr * kVecs && kLanes == 4);
  auto column = [=](int c) {
    const int k = c / kVecs, j = c % kVecs, block = j / kFullVecs;
    return block < kFull ? w + block * block_stride + k * kBlock + (j % kFullVecs) * kLanes
                         : w_half + k * kHalfBlock + (j - kFull * kFullVecs) * kLanes;
  };
  Vec input[kMr];
  Vec wv = load_now(column(0));
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) input[i] = load_now(x + i * x_stride);
#pragma GCC unroll 64
  for (int c = 0; c < 4 * kVecs; ++c) {
    Vec next = wv;
    if (c + 1 < 4 * kVecs) next = load_now(column(c + 1));
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      accumulate_now(acc[i * kVecs + c % kVecs], wv, input[i], c / kVecs);
    }
    wv = next;
  }
}

// One kernel row of a depthwise tile. Tap by tap over all columns, so that an accumulator is used
// again only after all others; inputs and taps of the whole row are in registers: 7 accumulators +
// 17 inputs + 5 taps = 29 for 5 x 5 stride 2.
#define WEEBILL_DEPTHWISE_ROW
template <int kKernel, int kStride, int kColumns>
inline void depthwise_kernel_row(Vec (&acc)[kColumns], const float* x, int64_t x_stride,
                                 const float* w) {
  constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
  constexpr int kAhead = kColumns < 2 ? 1 : 2;  // inputs in flight
  Vec taps[kKernel];
  Vec input[kInputs];
  taps[0] = load_now(w);
#pragma GCC unroll 4
  for (int t = 0; t < kAhead; ++t) {
    input[t * kStride] = load_now(x + t * kStride * x_stride);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kKernel; ++v) {
    if (v + 1 < kKernel) taps[v + 1] = load_now(w + (v + 1) * kBlock);
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) {
      // The input that tap v of column t + kAhead needs, unless an earlier tap has had it.
      const int ahead = t + kAhead < kColumns ? t + kAhead : t + kAhead - kColumns;
      const int tap = t + kAhead < kColumns ? v : v + 1;
      const int i = ahead * kStride + tap;
      const bool seen = tap >= kStride && ahead + 1 < kColumns;
      if (tap < kKernel && !seen) input[i] = load_now(x + i * x_stride);
      accumulate_now(acc[t], input[t * kStride + v], taps[v]);
    }
  }
}
