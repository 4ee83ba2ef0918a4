// Tiles of one block of 16 channels, all of whose outputs exist, where vectors must not be stored
// in a row: see WEEBILL_STORE_APART in simd/.
//
// The last kTogether inputs are taken a few pixels at a time: those are stored while the FMAs of
// the next ones run. Everything is in the order written; left to itself the compiler gathers the
// stores.

constexpr int kTogether = 4;  // inputs of a round

// Pixels that are finished and stored at once: four stores, or six with hardswish, whose
// multiplications take the FMAs' place and want company.
constexpr int finished_pixels(int32_t activation) { return activation == kActHardswish ? 3 : 2; }

// activate_cheap() for a few vectors. The constants are loaded here and now: the compiler would
// keep them in registers that the accumulators need.
template <int32_t kActivation, int kCount>
inline __attribute__((always_inline)) void activate_now(Vec* v) {
  static constexpr float kConstants[] = {3.0f, 6.0f, 1.0f / 6.0f};
  constexpr bool kSix = kActivation == kActRelu6 || kActivation == kActHardswish;
  const Vec six = kSix ? set1_now(kConstants[1]) : zero();
  if constexpr (kActivation == kActHardswish) {
    const Vec three = set1_now(kConstants[0]), sixth = set1_now(kConstants[2]);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) v[i] = hardswish(v[i], three, six, sixth);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
      v[i] = kActivation == kActRelu6 ? relu6(v[i], six) : activate_cheap(v[i], kActivation);
    }
  }
}

// One input of some pixels: the one at `index`, and kInput behind it where there are no offsets.
template <int kInput, int kPixels, bool kOffsets>
inline __attribute__((always_inline)) void multiply_add_now(Vec* acc, const float* const* x,
                                                            int64_t index, const float* w) {
  Vec wv[kFullVecs];
  unrolled<0, kFullVecs>([&](auto j) __attribute__((always_inline)) {
    constexpr int kVec = decltype(j)::value;
    wv[kVec] = load_now<kInput * kBlock + kVec * kLanes>(w);
  });
#pragma GCC unroll 16
  for (int i = 0; i < kPixels; ++i) {
    const Vec input = kOffsets ? broadcast_now(x[i], index) : broadcast_now<kInput>(x[i]);
#pragma GCC unroll 16
    for (int j = 0; j < kFullVecs; ++j) accumulate_now(acc[i * kFullVecs + j], input, wv[j]);
  }
}

// kRound inputs at a time, and with more than one the weights of the next block and the pixels of
// the next tile are fetched meanwhile; with one, the rows below the windows.
template <int32_t kActivation, bool kResidual, bool kOffsets, int kRound, int kMr>
__attribute__((noinline)) void whole_tiles_of(const PointwiseArgs& a, Walk& walk, int64_t count) {
  constexpr int kGroup = finished_pixels(kActivation);
  constexpr bool kFetch = kRound > 1;
  const int64_t rounds = (a.k - kTogether) / kRound;
  const int64_t single = (a.k - kTogether) % kRound;
  const int64_t x_stride = walk.x_stride;
  const int64_t y_stride = a.y_stride, y_width = a.y_width, y_jump = a.y_jump;
  const float* next_w = walk.next_w;
  const float* x = walk.x;
  const float* residual = walk.residual;
  float* y = walk.out.y + walk.y_channel;
  int64_t column = walk.out.column;
  const LinesBelow below(a, kRound == 1 ? x_stride : 0);
  for (; count > 0; --count) {
    if constexpr (kRound == 1) below.fetch(x);
    Vec acc[kMr * kFullVecs];
    const float* pixels[kMr];
    const float* w = hidden(walk.w);
    const int64_t* offset = a.offsets;
#pragma GCC unroll 16
    for (int j = 0; j < kFullVecs; ++j) {
      const Vec b = load(walk.bias + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kMr; ++i) acc[i * kFullVecs + j] = b;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      pixels[i] = hidden(x);
      x += x_stride;
    }
    // Past some inputs.
    const auto advance = [&](auto inputs) __attribute__((always_inline)) {
      constexpr int kInputs = decltype(inputs)::value;
      w = hidden(w + kInputs * kBlock);
      if constexpr (kOffsets) {
        offset += kInputs;
      } else {
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) pixels[i] = hidden(pixels[i] + kInputs);
      }
    };
    const float* ahead = x;  // the pixels of the next tile, one a round
    const float* const ahead_end = x + kMr * x_stride;
    for (int64_t left = rounds; left > 0; --left) {
      if constexpr (kFetch) {
        prefetch(next_w);
        next_w += kBlock;
      }
      if constexpr (kFetch && kOffsets) {  // whose lines nothing foresees
        unrolled<0, kRound>([&](auto u) __attribute__((always_inline)) {
          __builtin_prefetch(ahead + offset[decltype(u)::value]);
        });
        ahead += x_stride;
        if (ahead == ahead_end) ahead = x;
      }
      unrolled<0, kRound>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        multiply_add_now<kInput, kMr, kOffsets>(acc, pixels, kOffsets ? offset[kInput] : 0, w);
      });
      advance(Constant<kRound>{});
    }
    if constexpr (kFetch) {
      for (int64_t left = single; left > 0; --left) {
        multiply_add_now<0, kMr, kOffsets>(acc, pixels, kOffsets ? *offset : 0, w);
        advance(Constant<1>{});
      }
      prefetch(next_w);
      next_w += kBlock;
    }
    unrolled<0, (kMr + kGroup - 1) / kGroup>([&](auto group) __attribute__((always_inline)) {
      constexpr int kFirst = decltype(group)::value * kGroup;
      constexpr int kPixels = kGroup < kMr - kFirst ? kGroup : kMr - kFirst;
      unrolled<0, kTogether>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        multiply_add_now<kInput, kPixels, kOffsets>(acc + kFirst * kFullVecs, pixels + kFirst,
                                                    kOffsets ? offset[kInput] : 0, w);
      });
      activate_now<kActivation, kPixels * kFullVecs>(acc + kFirst * kFullVecs);
#pragma GCC unroll 16
      for (int i = kFirst; i < kFirst + kPixels; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kFullVecs; ++j) {
          Vec v = acc[i * kFullVecs + j];
          if constexpr (kResidual) v = add(v, load(residual + j * kLanes));
          store_now(y + j * kLanes, v);
        }
        if constexpr (kResidual) residual += a.residual_stride;
        y += y_stride;
        if (++column == y_width) {
          column = 0;
          y += y_jump;
        }
      }
    });
  }
  walk.x = x;
  walk.next_w = next_w;
  walk.residual = residual;
  walk.out = {y - walk.y_channel, column};
}

// False, and nothing done, where the activation is another.
template <bool kOffsets, int kRound, int kMr>
inline bool whole_tiles_in_rounds(const PointwiseArgs& a, Walk& walk, int64_t count) {
  if (walk.residual != nullptr) {
    if (kOffsets || a.activation != kActNone) return false;
    whole_tiles_of<kActNone, !kOffsets, kOffsets, kRound, kMr>(a, walk, count);
    return true;
  }
  switch (a.activation) {
#define WEEBILL_CASE(code)                                              \
  case code:                                                            \
    whole_tiles_of<code, false, kOffsets, kRound, kMr>(a, walk, count); \
    return true;
    WEEBILL_CASE(kActNone)
    WEEBILL_CASE(kActRelu)
    WEEBILL_CASE(kActRelu6)
    WEEBILL_CASE(kActHardswish)
#undef WEEBILL_CASE
    default:
      return false;
  }
}

// False, and nothing done, where an output is missing, the inputs make no round, or the activation
// is another.
template <bool kOffsets, int kMr>
inline bool whole_tiles(const PointwiseArgs& a, Walk& walk, int64_t count) {
  if (walk.channels != kBlock || a.k < kTogether) return false;
  // Few inputs through offsets are a stem's, done before those of the next tile would have come.
  if (kOffsets && a.k < 2 * kBlock) return whole_tiles_in_rounds<kOffsets, 1, kMr>(a, walk, count);
  return whole_tiles_in_rounds<kOffsets, kTogether, kMr>(a, walk, count);
}
