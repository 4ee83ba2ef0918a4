// Inner loops whose instructions stay in the order written here. Left to itself the compiler moves
// loads ahead until accumulators no longer fit in registers (gcc 12 spilled in every iteration),
// and a core that issues in order (Cortex-A53, A55) waits wherever a load is followed by its use.
// So each load stands a few FMAs before the first that needs it. Uses load_now and accumulate_now
// of simd/, which only instruction sets that define WEEBILL_SCHEDULED have.

// Where a product's weights lie, and its pixels: by a pointer each and one offset for all, so that
// no pass of the loop does arithmetic on addresses but three steps.
template <int kMr, int kFull, int kHalf>
struct Operands {
  static constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  const Element* pixel[kMr];
  const Element* w;
  const Element* w_half;
  int64_t block_stride;
  // Column c of kLanes channels of weights: vector c % kVecs of channel c / kVecs.
  const Element* column(int c) const {
    const int k = c / kVecs, j = c % kVecs, block = j / kFullVecs;
    return block < kFull ? w + block * block_stride + k * kBlock + (j % kFullVecs) * kLanes
                         : w_half + k * kHalfBlock + (j - kFull * kFullVecs) * kLanes;
  }
};

#if defined(WEEBILL_NARROW_LOADS)
// A load of 128 bits holds up Cortex-A53 and A55 for two cycles. Two of 64, the second by way of
// a general register, cost A53 one and A55 none, as they issue beside FMAs:
// https://github.com/Tencent/ncnn/wiki/arm-a53-a55-dual-issue. So the first half of a column is
// loaded two columns ahead, then the second half, which joins it in the next column.
constexpr int kColumnsAhead = 2;

template <int c, int kMr, int kFull, int kHalf, int kCount>
inline __attribute__((always_inline)) void columns(Vec (&acc)[kCount], Vec (&input)[kMr],
                                                   Vec (&w)[kColumnsAhead + 1], uint64_t& w_high,
                                                   uint64_t (&high)[kMr],
                                                   const Operands<kMr, kFull, kHalf>& from,
                                                   int64_t ahead) {
  constexpr int kVecs = Operands<kMr, kFull, kHalf>::kVecs;
  constexpr int kColumns = kLanes * kVecs;
  if constexpr (c > 0 && c + 1 < kColumns) join_now(w[(c + 1) % 3], w_high);
  if constexpr (c + 2 < kColumns) w[(c + 2) % 3] = load_low_now(from.column(c + 2));
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    accumulate_now(acc[i * kVecs + c % kVecs], w[c % 3], input[i], c / kVecs);
    if constexpr (c + 2 < kColumns) {
      if (i == 0) w_high = load_high_now(from.column(c + 2));
    }
    // A pixel's next inputs follow the last FMA that takes the present ones.
    if constexpr (c + 2 == kColumns) high[i] = load_high_now(from.pixel[i], ahead);
    if constexpr (c + 1 == kColumns) {
      if (i > 1) join_now(input[i - 2], high[i - 2]);
      reload_low_now(input[i], from.pixel[i], ahead);
    }
  }
  if constexpr (c + 1 < kColumns) {
    columns<c + 1>(acc, input, w, w_high, high, from, ahead);
  }
}

template <int kMr, int kFull, int kHalf, int kCount>
inline __attribute__((always_inline)) void multiply_add_lanes(
    Vec (&acc)[kCount], Vec (&input)[kMr], uint64_t (&high)[kMr],
    const Operands<kMr, kFull, kHalf>& from, int64_t ahead) {
  Vec w[kColumnsAhead + 1];
  uint64_t w_high = 0;
#pragma GCC unroll 2
  for (int c = 0; c < kColumnsAhead; ++c) w[c] = load_now(from.column(c));
  // The last pixels' halves had to wait for each other.
  if constexpr (kMr > 1) join_now(input[kMr - 2], high[kMr - 2]);
  join_now(input[kMr - 1], high[kMr - 1]);
  columns<0>(acc, input, w, w_high, high, from, ahead);
}
#else
// Column c and all after it. Each is loaded while the one before is multiplied, and a pixel's next
// inputs right after the last FMA that takes the present ones. Not a loop: gcc 12 unrolled that of
// 4 x 24 too late to keep it in registers.
template <int c, int kMr, int kFull, int kHalf, int kCount>
inline __attribute__((always_inline)) void columns(Vec (&acc)[kCount], Vec (&input)[kMr], Vec w,
                                                   const Operands<kMr, kFull, kHalf>& from,
                                                   int64_t ahead) {
  constexpr int kVecs = Operands<kMr, kFull, kHalf>::kVecs;
  constexpr bool kLast = c + 1 == kLanes * kVecs;
  Vec next = w;
  if constexpr (!kLast) next = load_now(from.column(c + 1));
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    accumulate_now(acc[i * kVecs + c % kVecs], w, input[i], c / kVecs);
    if constexpr (kLast) reload_now(input[i], from.pixel[i], ahead);
  }
  if constexpr (!kLast) columns<c + 1>(acc, input, next, from, ahead);
}

// kLanes input channels of a tile, of which `input` holds the inputs; after it, those `ahead` bytes
// from each pixel's start.
template <int kMr, int kFull, int kHalf, int kCount>
inline __attribute__((always_inline)) void multiply_add_lanes(
    Vec (&acc)[kCount], Vec (&input)[kMr], uint64_t (&)[kMr],
    const Operands<kMr, kFull, kHalf>& from, int64_t ahead) {
  columns<0>(acc, input, load_now(from.column(0)), from, ahead);
}
#endif

// kLanes input channels of a tile at a time, as many as there are; returns how many channels that
// was. One load brings as many inputs of a pixel, and FMAs take them lane by lane. In float32 5 x
// 16 takes 20 accumulators + 5 inputs + 2 weights, 4 x 24 takes 30 registers (each one more with
// narrow loads). 6 x 16 would take all 32; gcc 12 then spills.
template <int kMr, int kFull, int kHalf, int kCount>
inline __attribute__((always_inline)) int64_t multiply_add_vectors(
    Vec (&acc)[kCount], const Element* x, int64_t x_stride, const Element* w, int64_t block_stride,
    const Element* w_half, int64_t channels, const Element*& next_w) {
  static_assert(kCount == kMr * Operands<kMr, kFull, kHalf>::kVecs && sizeof(Vec) == 16);
  if (channels < kLanes) return 0;
  const int64_t bytes = channels / kLanes * 16;
  Operands<kMr, kFull, kHalf> from;
  from.w = w;
  from.w_half = w_half;
  from.block_stride = block_stride;
  Vec input[kMr];
  uint64_t high[kMr];
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i) {
    from.pixel[i] = x + i * x_stride;
    input[i] = load_now(from.pixel[i]);
#if defined(WEEBILL_NARROW_LOADS)
    high[i] = load_high_now(from.pixel[i]);
#endif
  }
  for (int64_t at = 16; at <= bytes; at += 16) {
    // The last time the same again: nothing past the end is read.
    multiply_add_lanes(acc, input, high, from, at < bytes ? at : at - 16);
    from.w += kLanes * kBlock;
    from.w_half += kLanes * kHalfBlock;
    if constexpr (kMr > 2) {  // one or two pixels read all weights at full speed
      prefetch(next_w);
      next_w += kLine;
    }
  }
  return bytes / int64_t{sizeof(Element)};
}

// One kernel row of a depthwise tile. Tap by tap over all columns, so that an accumulator is used
// again only after all others; inputs and taps of the whole row are in registers: 7 accumulators +
// 17 inputs + 5 taps = 29 for 5 x 5 stride 2.
#define WEEBILL_DEPTHWISE_ROW
template <int kKernel, int kStride, int kColumns>
inline void depthwise_kernel_row(Vec (&acc)[kColumns], const Element* x, int64_t x_stride,
                                 const Element* w) {
  constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
  constexpr int kAhead = kColumns < 2 ? 1 : 2;  // inputs in flight
  // Four inputs share an address, and their distances from it are the same for all rows.
  constexpr int kGroups = (kInputs + 3) / 4;
  const Element* group[kGroups];
  group[0] = x;
#pragma GCC unroll 8
  for (int g = 1; g < kGroups; ++g) group[g] = group[g - 1] + 4 * x_stride;
  constexpr int64_t kBytes = sizeof(Element);
  const int64_t distance[4] = {0, x_stride * kBytes, x_stride * 2 * kBytes, x_stride * 3 * kBytes};
  auto load_input = [&](int i) __attribute__((always_inline)) {
    return i % 4 == 0 ? load_now(group[i / 4]) : load_now(group[i / 4], distance[i % 4]);
  };
  Vec taps[kKernel];
  Vec input[kInputs];
  taps[0] = load_now(w);
#pragma GCC unroll 4
  for (int t = 0; t < kAhead; ++t) {
    input[t * kStride] = load_input(t * kStride);
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
      if (tap < kKernel && !seen) input[i] = load_input(i);
      accumulate_now(acc[t], input[t * kStride + v], taps[v]);
    }
  }
}
