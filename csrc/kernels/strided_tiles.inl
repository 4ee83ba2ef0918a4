// The loop of a product's tile where the pixels are operands base + scale * index of
// simd/strided.h, with 32 registers of 16 lanes: 14 x 32 takes 191 instructions for the 112 FMAs of
// four inputs, 14 x 24 131, 14 x 16 68 for 56. Left to itself gcc 12 takes 223 and 129, and keeps
// eight accumulators and most addresses on the stack: 14 x 24 ran at 66 % of a Zen 4's peak instead
// of 94.

static_assert(kFullVecs == 1 && kHalfVecs == 1);

// Where a whole block comes with a half one, two pixels share a vector of the half: lanes 0 to 7
// are the even pixel's and 8 to 15 the odd one's, for 21 FMAs of 14 x 24 where 28 would waste a
// quarter. The last of an odd number of pixels has a vector of its own.
template <int kFull, int kHalf>
constexpr bool kPaired = kFull == 1 && kHalf == 1;
constexpr bool is_pair(int pixel, int pixels) { return pixel % 2 == 0 && pixel + 1 < pixels; }

// Input kInput, where x is behind its offset if there are any, of the pixels [kFirst, kFirst +
// kPixels) in pairs.
template <int kFirst, int kPixels, int kInput, bool kOffsets, typename Operands>
inline __attribute__((always_inline)) void multiply_add_pairs(Vec* acc, const Operands& x,
                                                              const float* const* w) {
  constexpr int kAt = kOffsets ? 0 : kInput;  // behind x
  const Vec whole = load_now<kInput * kBlock>(w[0]);
  const Vec half = load_twice_now<kInput * kHalfBlock>(w[1]);
  unrolled<kFirst, kFirst + kPixels>([&](auto i) __attribute__((always_inline)) {
    constexpr int kPixel = decltype(i)::value;
    if constexpr (is_pair(kPixel, kFirst + kPixels)) {
      const Vec even = broadcast_now<kPixel, kAt>(x);
      accumulate_now(acc[2 * kPixel], even, whole);
      const Vec odd = broadcast_now<kPixel + 1, kAt>(x);
      accumulate_now(acc[2 * kPixel + 2], odd, whole);
      accumulate_now(acc[2 * kPixel + 1], low_and_high_now(even, odd), half);
    } else if constexpr (kPixel % 2 == 0) {
      accumulate_now<kPixel, kAt>(acc[2 * kPixel], x, whole);
      accumulate_half_now<kPixel, kAt>(acc[2 * kPixel + 1], x, half);
    }
  });
}

// The same. w are the weights of each whole block, and behind them those of the half block.
template <int kFirst, int kPixels, int kFull, int kHalf, int kInput, bool kOffsets,
          typename Operands>
inline __attribute__((always_inline)) void multiply_add_strided(Vec* acc, const Operands& x,
                                                                const float* const* w) {
  if constexpr (kPaired<kFull, kHalf>) {
    multiply_add_pairs<kFirst, kPixels, kInput, kOffsets>(acc, x, w);
  } else {
    constexpr int kAt = kOffsets ? 0 : kInput;  // behind x
    constexpr int kVecs = kFull + kHalf;
    Vec wv[kVecs];
    unrolled<0, kFull>([&](auto j) __attribute__((always_inline)) {
      constexpr int kVec = decltype(j)::value;
      wv[kVec] = load_now<kInput * kBlock>(w[kVec]);
    });
    if constexpr (kHalf > 0) wv[kFull] = load_half_now<kInput * kHalfBlock>(w[kFull]);
    unrolled<kFirst, kFirst + kPixels>([&](auto i) __attribute__((always_inline)) {
      constexpr int kPixel = decltype(i)::value;
      Vec* const to = acc + kPixel * kVecs;
      if constexpr (kFull > 1) {  // a broadcast of its own pays
        const Vec input = broadcast_now<kPixel, kAt>(x);
        unrolled<0, kFull>([&](auto j) __attribute__((always_inline)) {
          constexpr int kVec = decltype(j)::value;
          accumulate_now(to[kVec], input, wv[kVec]);
        });
      } else if constexpr (kFull == 1) {
        accumulate_now<kPixel, kAt>(to[0], x, wv[0]);
      }
      if constexpr (kHalf > 0) accumulate_half_now<kPixel, kAt>(to[kFull], x, wv[kFull]);
    });
  }
}

// What a tile's loop goes on with: pixels, weights, offsets, and the weights to be fetched.
template <int kMr, int kFull, int kHalf, bool kOffsets>
struct StridedLoop {
  static constexpr int kInputs = 4;  // of a round
  static constexpr int kVecs = kFull + kHalf;
  // The images of 7 x 7 are four tiles, which is how often the next weights can be asked for; where
  // those of calls to come are as well, twice as many.
  static constexpr int kLines = kFull > 1 ? 2 : 1;

  Strided x;
  const float* w[kFull + 1];
  const int64_t* offset;
  const float* next;
  const bool further;

  StridedLoop(const PointwiseArgs& a, const float* first, int64_t x_stride, const float* weights,
              const float* next_w)
      : x(first, x_stride),
        offset(a.offsets),
        next(next_w),
        further(kFull > 1 && a.ahead != nullptr) {
#pragma GCC unroll 4
    for (int j = 0; j <= kFull; ++j) w[j] = weights + j * a.w_block_stride;
  }

  Strided pixels(int64_t input) const {
    Strided at = x;
    if constexpr (kOffsets) {
      at.p += offset[input];
      at.p9 += offset[input];
    }
    return at;
  }

  template <int kCount>
  __attribute__((always_inline)) void inputs(Vec* acc) {
    unrolled<0, kCount>([&](auto u) __attribute__((always_inline)) {
      constexpr int kInput = decltype(u)::value;
      multiply_add_strided<0, kMr, kFull, kHalf, kInput, kOffsets>(acc, pixels(kInput), w);
    });
#pragma GCC unroll 4
    for (int j = 0; j < kFull; ++j) w[j] = hidden(w[j] + kCount * kBlock);
    if constexpr (kHalf > 0) w[kFull] = hidden(w[kFull] + kCount * kHalfBlock);
    if constexpr (kOffsets) {
      offset += kCount;
    } else {
      x.p += kCount;
      x.p9 += kCount;
    }
  }

  // `count` inputs, which need not make whole rounds.
  __attribute__((always_inline)) void run(Vec* acc, int64_t count) {
    for (int64_t left = count / kInputs; left > 0; --left) {
      inputs<kInputs>(acc);
      fetch();
    }
    for (int64_t left = count % kInputs; left > 0; --left) inputs<1>(acc);
  }

  __attribute__((always_inline)) void fetch() {
#pragma GCC unroll 2
    for (int i = 0; i < kLines; ++i) prefetch(next + i * kLine);
    next += kLines * kLine;
    if (further) {
#pragma GCC unroll 2
      for (int i = 0; i < kLines; ++i) prefetch(next + i * kLine);
      next += kLines * kLine;
    }
  }
};

// Keeps the accumulators where they are.
template <int kMr, int kFull, int kHalf>
inline __attribute__((always_inline)) void settle_all(Vec* acc) {
  constexpr int kVecs = kFull + kHalf;
#pragma GCC unroll 32
  for (int i = 0; i < kMr * kVecs; ++i) {
    if (!kPaired<kFull, kHalf> || i % 4 != 3) settle(acc[i]);
  }
}

// All inputs.
template <int kMr, int kFull, int kHalf, bool kOffsets, int kCount>
inline __attribute__((always_inline)) void multiply_add_all(Vec (&acc)[kCount],
                                                            const PointwiseArgs& a,
                                                            const float* first, int64_t x_stride,
                                                            const float* w, const float*& next_w) {
  using Loop = StridedLoop<kMr, kFull, kHalf, kOffsets>;
  static_assert(kCount == kMr * Loop::kVecs);
  Loop loop(a, first, x_stride, w, next_w);
  if constexpr (kPaired<kFull, kHalf>) {
#pragma GCC unroll 7
    for (int i = 0; i + 1 < kMr; i += 2) {
      acc[2 * i + 1] = low_and_low(acc[2 * i + 1], acc[2 * i + 3]);
    }
  }
  settle_all<kMr, kFull, kHalf>(acc);
  loop.run(acc, a.k);
  next_w = loop.next;
  if constexpr (kPaired<kFull, kHalf>) {
#pragma GCC unroll 7
    for (int i = 0; i + 1 < kMr; i += 2) acc[2 * i + 3] = high(acc[2 * i + 1]);
  }
}

// The end of a tile whose accumulators lie in `values`: activation, residual, and the outputs that
// exist. Out of line: inlined for every size of tile it was a third of the AVX-512 code, and most
// pixels end below.
__attribute__((noinline)) void finish_pixels(const PointwiseArgs& a, float* values, int mr,
                                             int full, int half, Cursor& out, int64_t y_channel,
                                             const float* residual, int64_t channels) {
  const int vecs = full + half;
  if (is_exponential(a.activation)) {
    activate_in_memory(values, mr * vecs, a.activation);
  } else {
    for (int i = 0; i < mr * vecs; ++i) {
      float* value = values + i * kLanes;
      store(value, activate_cheap(load(value), a.activation));
    }
  }
  for (int i = 0; i < mr; ++i) {
    for (int j = 0; j < vecs; ++j) {
      const int64_t at = j * kLanes;
      const int64_t lanes = j < full ? kLanes : kHalfBlock;
      const int64_t left = channels - at;
      const int64_t n = left < 0 ? 0 : (left < lanes ? left : lanes);
      float* y = out.y + y_channel + at + j * a.y_block_jump;
      Vec v = load(values + (i * vecs + j) * kLanes);
      if (residual != nullptr) v = add(v, load_n(residual + i * a.residual_stride + at, n));
      store_n(y, v, n);
    }
    out.next(a);
  }
}

// Tiles all of whose outputs exist. The last kTogether inputs are taken a few pixels at a time:
// those are stored while the FMAs of the next ones run.
constexpr int kTogether = 4;

// Activations that are nothing but bounds.
inline bool is_bounds(int32_t activation) {
  return activation == kActNone || activation == kActRelu || activation == kActRelu6;
}
// Those that tiles apply as they store: activate_now().
inline bool is_cheap(int32_t activation) {
  return is_bounds(activation) || activation == kActHardswish;
}
struct Bounds {
  bool from_zero, to_six;
};
inline Bounds bounds_of(int32_t activation) {
  return {activation != kActNone, activation == kActRelu6};
}

// What the accumulators of vector j of a tile begin with.
template <int kFull, int kHalf>
inline Vec load_bias(const float* bias, int j) {
  const float* from = bias + j * kLanes;
  if (j < kFull) return load(from);
  const Vec half = load_low(from);
  return kPaired<kFull, kHalf> ? low_and_low(half, half) : half;
}

// hardswish(), or bounds: those that there are, for where a maximum takes the place of an FMA one
// that changes nothing costs as much.
template <bool kHardswish, int kCount>
inline __attribute__((always_inline)) void activate_now(Vec* v, const Bounds& bounds) {
  static constexpr float kConstants[] = {3.0f, 6.0f, 1.0f / 6.0f};
  if constexpr (kHardswish) {
    const Vec three = set1_now(kConstants[0]), six = set1_now(kConstants[1]);
    const Vec sixth = set1_now(kConstants[2]);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) v[i] = hardswish(v[i], three, six, sixth);
  } else if (bounds.from_zero) {
    const Vec low = zero();
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) v[i] = max_of(v[i], low);
    if (bounds.to_six) {
      const Vec high = set1_now(kConstants[1]);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) v[i] = min_of(v[i], high);
    }
  }
}

template <bool kHardswish, bool kOffsets, int kMr, int kFull, int kHalf>
__attribute__((noinline)) void whole_strided_tiles(const PointwiseArgs& a, Walk& walk,
                                                   int64_t count) {
  using Loop = StridedLoop<kMr, kFull, kHalf, kOffsets>;
  constexpr int kVecs = Loop::kVecs;
  constexpr int kGroup = kVecs == 1 ? 4 : 2;  // pixels that are finished and stored at once
  const Bounds bounds = bounds_of(a.activation);
  const int64_t y_stride = a.y_stride, y_width = a.y_width, y_jump = a.y_jump;
  const int64_t y_vector = kFull > 1 ? kLanes + a.y_block_jump : kLanes;
  const int64_t residual_stride = a.residual_stride;
  const float* x = walk.x;
  const float* residual = walk.residual;
  float* y = walk.out.y + walk.y_channel;
  int64_t column = walk.out.column;
  for (; count > 0; --count) {
    Vec acc[kMr * kVecs];
    Loop loop(a, x, walk.x_stride, walk.w, walk.next_w);
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      const Vec b = load_bias<kFull, kHalf>(walk.bias, j);
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) acc[i * kVecs + j] = b;
    }
    settle_all<kMr, kFull, kHalf>(acc);
    loop.run(acc, a.k - kTogether);
    loop.fetch();
    unrolled<0, (kMr + kGroup - 1) / kGroup>([&](auto group) __attribute__((always_inline)) {
      constexpr int kFirst = decltype(group)::value * kGroup;
      constexpr int kPixels = kGroup < kMr - kFirst ? kGroup : kMr - kFirst;
      unrolled<0, kTogether>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        multiply_add_strided<kFirst, kPixels, kFull, kHalf, kInput, kOffsets>(
            acc, loop.pixels(kInput), loop.w);
      });
      constexpr bool kPair = kPaired<kFull, kHalf> && kPixels == 2;
      activate_now<kHardswish, kPair ? 3 : kPixels * kVecs>(acc + kFirst * kVecs, bounds);
      if constexpr (kPair) acc[2 * kFirst + 3] = high(acc[2 * kFirst + 1]);
#pragma GCC unroll 4
      for (int i = kFirst; i < kFirst + kPixels; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) {
          Vec v = acc[i * kVecs + j];
          if (residual != nullptr) {
            v = add(v, j < kFull ? load(residual + j * kLanes) : load_low(residual + j * kLanes));
          }
          if (j < kFull) {
            store_now(y + j * y_vector, v);
          } else {
            store_low_now(y + j * y_vector, v);
          }
        }
        if (residual != nullptr) residual += residual_stride;
        y += y_stride;
        if (++column == y_width) {
          column = 0;
          y += y_jump;
        }
      }
    });
    x += kMr * walk.x_stride;
    walk.next_w = loop.next;
  }
  walk.x = x;
  walk.residual = residual;
  walk.out = {y - walk.y_channel, column};
}

// False, and nothing done, where an output is missing, inputs are few, or the activation is
// another. Of the tiles only those that most pixels are dealt out to.
template <bool kOffsets, int kMr, int kFull, int kHalf>
inline bool whole_strided(const PointwiseArgs& a, Walk& walk, int64_t count) {
  if constexpr (kMr < 12 || kFull == 0) return false;
  if (walk.channels != kFull * kBlock + kHalf * kHalfBlock || a.k < kTogether) return false;
  if (a.activation == kActHardswish) {
    whole_strided_tiles<true, kOffsets, kMr, kFull, kHalf>(a, walk, count);
    return true;
  }
  if (!is_bounds(a.activation)) return false;
  whole_strided_tiles<false, kOffsets, kMr, kFull, kHalf>(a, walk, count);
  return true;
}
