// A product's loop on AArch64 Advanced SIMD, where a core's own order of execution hides latencies:
// 6 pixels x 16 channels and 4 x 24 in all 32 registers, 24 accumulators, an input per pixel and
// two weights. A pass of four input channels takes 96 FMAs by lane, 6 loads of inputs and 8 of
// pairs of weights (4 x 24: 4 and 12), and five instructions more: 0.30 instructions per
// multiply-add, of which the FMAs are 0.25.
//
// It is one asm statement per tile: with every register taken gcc 12 spills accumulators in
// whatever form the loop is written otherwise. The accumulators are its outputs, which start as the
// bias. This file and in_order_depthwise.inl are the only ones of kernels/ that are of one
// instruction set.

// What all tiles of a column of weight blocks share; the asm reads it by these offsets.
struct Panel {
  const float* w;          // 0
  const float* bias;       // 8
  int64_t bytes;           // 16: minus the bytes of a pixel's inputs that go by whole vectors
  int64_t x_stride;        // 24: in bytes
  int64_t left;            // 32: inputs after those, or all of them where there are offsets
  const float* w_half;     // 40
  const int64_t* offsets;  // 48
};

// clang-format off
#define WEEBILL_PIXELS_1(M, ...) M(0, __VA_ARGS__)
#define WEEBILL_PIXELS_2(M, ...) WEEBILL_PIXELS_1(M, __VA_ARGS__) M(1, __VA_ARGS__)
#define WEEBILL_PIXELS_3(M, ...) WEEBILL_PIXELS_2(M, __VA_ARGS__) M(2, __VA_ARGS__)
#define WEEBILL_PIXELS_4(M, ...) WEEBILL_PIXELS_3(M, __VA_ARGS__) M(3, __VA_ARGS__)
#define WEEBILL_PIXELS_5(M, ...) WEEBILL_PIXELS_4(M, __VA_ARGS__) M(4, __VA_ARGS__)
#define WEEBILL_PIXELS_6(M, ...) WEEBILL_PIXELS_5(M, __VA_ARGS__) M(5, __VA_ARGS__)

// Registers: a pixel's inputs, its address (at the end of them), and that of the pixel before.
#define WEEBILL_INPUT_0 "24"
#define WEEBILL_INPUT_1 "25"
#define WEEBILL_INPUT_2 "26"
#define WEEBILL_INPUT_3 "27"
#define WEEBILL_INPUT_4 "28"
#define WEEBILL_INPUT_5 "29"
#define WEEBILL_PIXEL_0 "x11"
#define WEEBILL_PIXEL_1 "x12"
#define WEEBILL_PIXEL_2 "x13"
#define WEEBILL_PIXEL_3 "x14"
#define WEEBILL_PIXEL_4 "x15"
#define WEEBILL_PIXEL_5 "x16"
#define WEEBILL_BEFORE_1 "x11"
#define WEEBILL_BEFORE_2 "x12"
#define WEEBILL_BEFORE_3 "x13"
#define WEEBILL_BEFORE_4 "x14"
#define WEEBILL_BEFORE_5 "x15"

#define WEEBILL_FMLA(i, j, lane, w) \
  "fmla %[a" #i #j "].4s, v" w ".4s, v" WEEBILL_INPUT_##i ".s[" #lane "]\n"
// Two vectors of weights, and a pixel's FMAs with them.
#define WEEBILL_WEIGHTS(from, at) "ldp q30, q31, [" from ", #" #at "]\n"
#define WEEBILL_FMLA2(i, j0, j1, lane) \
  WEEBILL_FMLA(i, j0, lane, "30") WEEBILL_FMLA(i, j1, lane, "31")
// The same behind the load of four inputs, which the FMAs before give the time it takes.
#define WEEBILL_LOAD_FMLA2(i, j0, j1, lane) \
  "ldr q" WEEBILL_INPUT_##i ", [" WEEBILL_PIXEL_##i ", x10]\n" WEEBILL_FMLA2(i, j0, j1, lane)
#define WEEBILL_LOAD_ONE(i, ...) "ldr s" WEEBILL_INPUT_##i ", [" WEEBILL_PIXEL_##i "], #4\n"
#define WEEBILL_LOAD_OFFSET(i, offset) \
  "ldr s" WEEBILL_INPUT_##i ", [" WEEBILL_PIXEL_##i ", " offset ", lsl #2]\n"
#define WEEBILL_BIAS(i, j0, j1, at) "ldp %q[a" #i #j0 "], %q[a" #i #j1 "], [x9, #" #at "]\n"
#define WEEBILL_NEXT_PIXEL(i, ...) \
  "add " WEEBILL_PIXEL_##i ", " WEEBILL_BEFORE_##i ", x17\n"
#define WEEBILL_NEXT_PIXELS_3 WEEBILL_NEXT_PIXEL(1) WEEBILL_NEXT_PIXEL(2)
#define WEEBILL_NEXT_PIXELS_4 WEEBILL_NEXT_PIXELS_3 WEEBILL_NEXT_PIXEL(3)
#define WEEBILL_NEXT_PIXELS_5 WEEBILL_NEXT_PIXELS_4 WEEBILL_NEXT_PIXEL(4)
#define WEEBILL_NEXT_PIXELS_6 WEEBILL_NEXT_PIXELS_5 WEEBILL_NEXT_PIXEL(5)

// x8: weights, x9: bias, later weights of the half block, x10: distance from the end of a pixel's
// inputs, x17: from one pixel to the next, later a counter.
#define WEEBILL_START(pixels)               \
  "ldp x8, x9, [%[panel]]\n"                \
  "ldp x10, x17, [%[panel], #16]\n"         \
  "sub x11, %[x], x10\n"                    \
  WEEBILL_NEXT_PIXELS_##pixels              \
  WEEBILL_PIXELS_##pixels(WEEBILL_BIAS, 0, 1, 0) \
  WEEBILL_PIXELS_##pixels(WEEBILL_BIAS, 2, 3, 32)
#define WEEBILL_START_HALF(pixels)                 \
  WEEBILL_PIXELS_##pixels(WEEBILL_BIAS, 4, 5, 64) \
  "ldr x9, [%[panel], #40]\n"

// One input channel of those loaded, whose weights lie `at` bytes on.
#define WEEBILL_CHANNEL_FROM(pixels, first, lane, at, at2) \
  WEEBILL_WEIGHTS("x8", at)                                \
  WEEBILL_PIXELS_##pixels(first, 0, 1, lane)               \
  WEEBILL_WEIGHTS("x8", at2)                               \
  WEEBILL_PIXELS_##pixels(WEEBILL_FMLA2, 2, 3, lane)
#define WEEBILL_CHANNEL(pixels, lane, at, at2) \
  WEEBILL_CHANNEL_FROM(pixels, WEEBILL_FMLA2, lane, at, at2)
#define WEEBILL_CHANNEL_HALF(pixels, lane, at) \
  WEEBILL_WEIGHTS("x9", at) WEEBILL_PIXELS_##pixels(WEEBILL_FMLA2, 4, 5, lane)
#define WEEBILL_NO_HALF(...) ""

// `half` is WEEBILL_CHANNEL_HALF or WEEBILL_NO_HALF, step_half what moves x9 on.
#define WEEBILL_DIRECT(pixels, half, step_half, step_half_one)                     \
  "cbz x10, 2f\n"                                                                  \
  "1:\n"                                                                           \
  WEEBILL_CHANNEL_FROM(pixels, WEEBILL_LOAD_FMLA2, 0, 0, 32) half(pixels, 0, 0)    \
  WEEBILL_CHANNEL(pixels, 1, 64, 96) half(pixels, 1, 32)                           \
  "prfm pldl2keep, [%[next]]\n"                                                    \
  "add %[next], %[next], #64\n"                                                    \
  WEEBILL_CHANNEL(pixels, 2, 128, 160) half(pixels, 2, 64)                         \
  WEEBILL_CHANNEL(pixels, 3, 192, 224) half(pixels, 3, 96)                         \
  "add x8, x8, #256\n" step_half                                                   \
  "adds x10, x10, #16\n"                                                           \
  "b.ne 1b\n"                                                                      \
  "2:\n"                                                                           \
  "ldr x17, [%[panel], #32]\n"                                                     \
  "cbz x17, 4f\n"                                                                  \
  "3:\n"                                                                           \
  WEEBILL_PIXELS_##pixels(WEEBILL_LOAD_ONE)                                        \
  WEEBILL_CHANNEL(pixels, 0, 0, 32) half(pixels, 0, 0)                             \
  "add x8, x8, #64\n" step_half_one                                                \
  "subs x17, x17, #1\n"                                                            \
  "b.ne 3b\n"                                                                      \
  "4:\n"

#define WEEBILL_OFFSETS(pixels, half, step_half)                                   \
  "ldr x17, [%[panel], #32]\n"                                                     \
  "ldr %[next], [%[panel], #48]\n"                                                 \
  "subs x17, x17, #2\n"                                                            \
  "b.lt 2f\n"                                                                      \
  "1:\n"                                                                           \
  "ldp x10, x7, [%[next]], #16\n"                                                  \
  WEEBILL_PIXELS_##pixels(WEEBILL_LOAD_OFFSET, "x10")                              \
  WEEBILL_CHANNEL(pixels, 0, 0, 32) half(pixels, 0, 0)                             \
  WEEBILL_PIXELS_##pixels(WEEBILL_LOAD_OFFSET, "x7")                               \
  WEEBILL_CHANNEL(pixels, 0, 64, 96) half(pixels, 0, 32)                           \
  "add x8, x8, #128\n" step_half                                                   \
  "subs x17, x17, #2\n"                                                            \
  "b.ge 1b\n"                                                                      \
  "2:\n"                                                                           \
  "tbz x17, #0, 4f\n"                                                              \
  "ldr x10, [%[next]]\n"                                                           \
  WEEBILL_PIXELS_##pixels(WEEBILL_LOAD_OFFSET, "x10")                              \
  WEEBILL_CHANNEL(pixels, 0, 0, 32) half(pixels, 0, 0)                             \
  "4:\n"

#define WEEBILL_SUM(i, j) [a##i##j] "=w"(acc[i * kVecs + j])
#define WEEBILL_SUMS_4(i, ...) \
  WEEBILL_SUM(i, 0), WEEBILL_SUM(i, 1), WEEBILL_SUM(i, 2), WEEBILL_SUM(i, 3),
#define WEEBILL_SUMS_6(i, ...) WEEBILL_SUMS_4(i) WEEBILL_SUM(i, 4), WEEBILL_SUM(i, 5),
#define WEEBILL_OPERANDS(pixels, sums)                                                  \
  WEEBILL_PIXELS_##pixels(sums) [next] "+&r"(next)                                      \
      : [panel] "r"(&panel), [x] "r"(x)                                                 \
      : "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17", "v24", \
        "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc", "memory"
#define WEEBILL_TILE_16(pixels)                                                          \
  if constexpr (kMr == pixels && !kOffsets) {                                            \
    __asm__ volatile(WEEBILL_START(pixels) WEEBILL_DIRECT(pixels, WEEBILL_NO_HALF, "", "") \
                     : WEEBILL_OPERANDS(pixels, WEEBILL_SUMS_4));                        \
  }                                                                                      \
  if constexpr (kMr == pixels && kOffsets) {                                             \
    __asm__ volatile(WEEBILL_START(pixels) WEEBILL_OFFSETS(pixels, WEEBILL_NO_HALF, "")  \
                     : WEEBILL_OPERANDS(pixels, WEEBILL_SUMS_4));                        \
  }
#define WEEBILL_TILE_24(pixels)                                                         \
  if constexpr (kMr == pixels && !kOffsets) {                                           \
    __asm__ volatile(WEEBILL_START(pixels) WEEBILL_START_HALF(pixels)                   \
                     WEEBILL_DIRECT(pixels, WEEBILL_CHANNEL_HALF, "add x9, x9, #128\n", \
                                    "add x9, x9, #32\n")                                \
                     : WEEBILL_OPERANDS(pixels, WEEBILL_SUMS_6));                       \
  }                                                                                     \
  if constexpr (kMr == pixels && kOffsets) {                                            \
    __asm__ volatile(WEEBILL_START(pixels) WEEBILL_START_HALF(pixels)                   \
                     WEEBILL_OFFSETS(pixels, WEEBILL_CHANNEL_HALF, "add x9, x9, #64\n") \
                     : WEEBILL_OPERANDS(pixels, WEEBILL_SUMS_6));                       \
  }
// clang-format on

// Whether there is such a loop.
template <int kMr, int kFull, int kHalf>
constexpr bool kInRegisters = kFull == 1 && kMr > 2 && kMr <= (kHalf == 0 ? 6 : 4);

// acc = bias + all multiply-adds of a tile. `next`: see tile().
template <int kMr, int kFull, int kHalf, bool kOffsets, int kCount>
inline __attribute__((always_inline)) void multiply_add_tile(Vec (&acc)[kCount], const Panel& panel,
                                                             const float* x, const float*& next) {
  constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  static_assert(kCount == kMr * kVecs && kInRegisters<kMr, kFull, kHalf>);
  if constexpr (kHalf == 0) {
    WEEBILL_TILE_16(3)
    WEEBILL_TILE_16(4)
    WEEBILL_TILE_16(5)
    WEEBILL_TILE_16(6)
  } else {
    WEEBILL_TILE_24(3)
    WEEBILL_TILE_24(4)
  }
}

// Tiles that do not end in whole vectors, or have one of the rarer activations, from a copy in
// memory.
__attribute__((noinline)) void finish_in_memory(const PointwiseArgs& a, float* sums, int64_t pixels,
                                                int64_t width, Walk& at) {
  for (int64_t i = 0; i < pixels; ++i, sums += width) {
    for (int64_t c = 0; c < at.channels; c += kLanes) {
      const int64_t n = at.channels - c < kLanes ? at.channels - c : kLanes;
      Vec v[1] = {load(sums + c)};
      activate_all(v, a.activation);
      if (at.residual != nullptr) v[0] = add(v[0], load_n(at.residual + c, n));
      store_n(at.out.y + at.y_channel + c, v[0], n);
    }
    if (at.residual != nullptr) at.residual += a.residual_stride;
    at.out.next(a);
  }
}

// The activations of networks' products, as in activation.inl. Each result stays in its register:
// left free in that, gcc 12 moves most of a tile about where the cases meet.
template <int kCount>
inline void activate_in_place(Vec (&acc)[kCount], int32_t activation) {
  if (activation == kActRelu) {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) max_in_place(acc[i], zero());
  } else if (activation == kActRelu6) {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      max_in_place(acc[i], zero());
      min_in_place(acc[i], set1(6.0f));
    }
  } else if (activation == kActHardswish) {
#pragma GCC unroll 32
    for (int i = 0; i < kCount; ++i) {
      mul_in_place(acc[i], relu6(add(acc[i], set1(3.0f)), set1(6.0f)));
      mul_in_place(acc[i], set1(1.0f / 6.0f));
    }
  }
}

template <int kMr, int kFull, int kHalf, bool kOffsets>
inline void tiles_in_registers(const PointwiseArgs& a, Walk& walk, int64_t count) {
  constexpr int kVecs = kFull * kFullVecs + kHalf * kHalfVecs;
  constexpr int64_t kWidth = kFull * kBlock + kHalf * kHalfBlock;
  const int64_t vectors = kOffsets ? 0 : a.k / kLanes;
  const Panel panel = {walk.w,
                       walk.bias,
                       vectors * -int64_t{sizeof(Vec)},
                       walk.x_stride * int64_t{sizeof(float)},
                       a.k - vectors * kLanes,
                       walk.w + kFull * a.w_block_stride,
                       a.offsets};
  const int64_t y_stride = a.y_stride, y_width = a.y_width, y_jump = a.y_jump;
  const int64_t x_step = kMr * walk.x_stride;
  const float* x = walk.x;
  const float* next_w = walk.next_w;
  if (walk.channels != kWidth || a.activation > kActHardswish) {
    for (; count > 0; --count, x += x_step) {
      Vec acc[kMr * kVecs];
      multiply_add_tile<kMr, kFull, kHalf, kOffsets>(acc, panel, x, next_w);
      float sums[kMr * kWidth];
#pragma GCC unroll 32
      for (int i = 0; i < kMr * kVecs; ++i) store(sums + i * kLanes, acc[i]);
      finish_in_memory(a, sums, kMr, kWidth, walk);
    }
  }
  float* y = walk.out.y + walk.y_channel;
  int64_t column = walk.out.column;
  const float* residual = walk.residual;
  for (; count > 0; --count, x += x_step) {
    Vec acc[kMr * kVecs];
    multiply_add_tile<kMr, kFull, kHalf, kOffsets>(acc, panel, x, next_w);
    activate_in_place(acc, a.activation);
    if (residual != nullptr) {
#pragma GCC unroll 6
      for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 6
        for (int j = 0; j < kVecs; j += 2) {
          Vec first, second;
          load_pair(residual, j, first, second);
          add_in_place(acc[i * kVecs + j], first);
          add_in_place(acc[i * kVecs + j + 1], second);
        }
        residual += a.residual_stride;
      }
    }
    auto store_pixel = [&](int i) __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int j = 0; j < kVecs; j += 2) {
        store_pair(y, j, acc[i * kVecs + j], acc[i * kVecs + j + 1]);
      }
      y += y_stride;
    };
    if (column + kMr < y_width) {
      column += kMr;
#pragma GCC unroll 6
      for (int i = 0; i < kMr; ++i) store_pixel(i);
    } else {
#pragma GCC unroll 6
      for (int i = 0; i < kMr; ++i) {
        store_pixel(i);
        if (++column == y_width) {
          column = 0;
          y += y_jump;
        }
      }
    }
  }
  walk.x = x;
  walk.next_w = next_w;
  walk.residual = residual;
  walk.out.y = y - walk.y_channel;
  walk.out.column = column;
}
