// One kernel row of a depthwise tile where 16 registers must do and an instruction can take a
// vector from memory at base + scale * index. Uses Strided and its loads of simd/, which only
// instruction sets that define WEEBILL_STRIDED have.
//
// Tap by tap over all columns, so that an accumulator is used again only after all others. An input
// that a later tap of this row meets again stays in a register as long as registers last: all of
// them at stride 1, where tap v + 1 of a column takes what tap v of the next one had, and every
// other one at stride 2. The rest are operands of their FMAs: 7 accumulators + 7 inputs + a tap, 12
// instructions that load at 3 x 3 stride 1, 18 at 3 x 3 stride 2, 33 at 5 x 5 stride 2.
#define WEEBILL_DEPTHWISE_ROW

template <int kKernel, int kStride, int kColumns>
inline __attribute__((always_inline)) void depthwise_kernel_row(Vec (&acc)[kColumns],
                                                                const float* first,
                                                                int64_t x_stride, const float* w) {
  const Strided x(first, x_stride);
  Vec kept[kColumns];
  unrolled<0, kKernel>([&](auto v) __attribute__((always_inline)) {
    constexpr int kTap = decltype(v)::value;
    const Vec tap = load_now(w + kTap * kBlock);
    unrolled<0, kColumns>([&](auto t) __attribute__((always_inline)) {
      constexpr int kColumn = decltype(t)::value;
      constexpr int kInput = kColumn * kStride + kTap;
      // The first and the last tap of this row that meet the input.
      constexpr bool kFirst = kTap < kStride || kColumn + 1 == kColumns;
      constexpr bool kLast = kTap + kStride >= kKernel || kColumn == 0;
      constexpr bool kKeep = kTap % kStride == 0 && !(kFirst && kLast);
      if constexpr (kKeep) {
        Vec& input = kept[kInput / kStride % kColumns];
        if constexpr (kFirst) input = load_at<kInput>(x);
        accumulate_now(acc[kColumn], input, tap);
      } else {
        accumulate_at<kInput>(acc[kColumn], x, tap);
      }
    });
  });
}
