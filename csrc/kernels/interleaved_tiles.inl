// Tiles of 14 pixels x 24 channels for processors that do every operation on 512 bits in the two
// ports of the FMAs (Intel): the blend by which strided_tiles.inl puts two pixels into a vector
// takes the place of one FMA in four there. Here two pixels lie interleaved in memory, input by
// input, and one broadcast of 64 bits gives a vector both: even lanes are the even pixel's, odd
// lanes the odd one's. The weights come in two lanes each, of the whole block by loads that take
// the even or the odd ones, of the half block from a copy made once per column of tiles. So 24
// channels of two pixels are three FMAs and nothing besides, but for 7 permutations per 8 inputs,
// 168 FMAs.
//
// Emerald Rapids, 784 pixels with their tensors in the second cache: 24 -> 24 channels 7.7 to 6.4
// us, 72 -> 24 21.2 to 17.0, 240 -> 24 68.5 to 54.0, 94 % of the peak. Pixels interleaved 16 inputs
// at once, right before they are wanted, gave half of that.
//
// Uses Walk, activate_now(), Bounds and kTogether.

constexpr int kInterleavedMr = 14;
// More have no room on the stack: 64 bytes for each.
constexpr int64_t kMostInterleaved = 512;

// The weights of a half block, each channel's in two lanes.
inline void double_half_block(const float* w, int64_t k, float* to) {
  for (int64_t i = 0; i < k; ++i, w += kHalfBlock, to += kLanes)
    store(to, low_pairs(load_low(w), load_low(w)));
}

// Interleaved inputs that are multiplied now, and those of the next turn: FMAs that are older go
// first, and younger ones would wait for inputs that are interleaved right before them.
struct InTurn {
  float *now, *ahead;
  void next() {
    float* const filled = ahead;
    ahead = now;
    now = filled;
  }
};

// The accumulators of pixels 2 i and 2 i + 1: of the whole block's even channels, of its odd ones,
// and of the half block.
struct Interleaved {
  static constexpr int kVecs = 3;
  static constexpr int kPairs = kInterleavedMr / 2;
  static constexpr int kInputs = 8;  // interleaved at once
  static constexpr int64_t kPairFloats = 2 * kInputs;
  static constexpr int64_t kChunkFloats = kPairs * kPairFloats;

  Vec acc[kPairs * kVecs];

  __attribute__((always_inline)) Interleaved(const float* bias) {
    const Vec even = load_even_twice_now<0>(bias), odd = load_odd_twice_now<0>(bias);
    const Vec half = low_pairs(load_low(bias + kBlock), load_low(bias + kBlock));
#pragma GCC unroll 7
    for (int i = 0; i < kPairs; ++i) {
      acc[i * kVecs] = even;
      acc[i * kVecs + 1] = odd;
      acc[i * kVecs + 2] = half;
    }
#pragma GCC unroll 21
    for (int i = 0; i < kPairs * kVecs; ++i) settle(acc[i]);
  }

  // The next kInputs of all pixels. Not to memory of the tile's own: then gcc keeps acc there, too.
  static __attribute__((always_inline)) void interleave(const float* x, int64_t x_stride,
                                                        float* to) {
    const Lanes pairs = load_lanes_now(kLowPairs);
#pragma GCC unroll 7
    for (int i = 0; i < kPairs; ++i, x += 2 * x_stride, to += kPairFloats) {
      store_now(to, permuted(load_low(x), load_low(x + x_stride), pairs));
    }
  }

  // Where input kInput of pair kPair lies among those.
  template <int kPair, int kInput>
  static constexpr int kAt = kPair * static_cast<int>(kPairFloats) + 2 * kInput;

  // Input kInput of the pairs [kFirst, kEnd), which lie at p as Places says.
  template <int kFirst, int kEnd, int kInput, typename Places>
  __attribute__((always_inline)) void multiply_add_pairs(const float* p, const float* w,
                                                         const float* w_half) {
    const Vec even = load_even_twice_now<kInput * kBlock>(w);
    const Vec odd = load_odd_twice_now<kInput * kBlock>(w);
    const Vec half = load_now<kInput * kLanes>(w_half);
    unrolled<kFirst, kEnd>([&](auto i) __attribute__((always_inline)) {
      constexpr int kPair = decltype(i)::value;
      const Vec both = broadcast_two_now<Places::template kAt<kPair, kInput>>(p);
      accumulate_now(acc[kPair * kVecs], both, even);
      accumulate_now(acc[kPair * kVecs + 1], both, odd);
      accumulate_now(acc[kPair * kVecs + 2], both, half);
    });
  }

  // The outputs of a pair: the first 16 channels of either pixel, and the last 8.
  template <int kPair, bool kHardswish>
  __attribute__((always_inline)) void finish(const Bounds& bounds, Vec (&first)[2],
                                             Vec (&last)[2]) {
    Vec* const v = acc + kPair * kVecs;
    activate_now<kHardswish, kVecs>(v, bounds);
    first[0] = permuted(v[0], v[1], load_lanes_now(kFirstOfPairs));
    first[1] = permuted(v[0], v[1], load_lanes_now(kSecondOfPairs));
    last[0] = permuted(v[2], v[2], load_lanes_now(kFirstThenSecond));
    last[1] = high(last[0]);
  }
};

// Whole tiles only; a.k a multiple of kInputs.
template <bool kHardswish>
__attribute__((noinline)) void interleaved_tiles(const PointwiseArgs& a, Walk& walk,
                                                 const float* doubled, int64_t count) {
  using Tile = Interleaved;
  const Bounds bounds = bounds_of(a.activation);
  const int64_t y_stride = a.y_stride, y_width = a.y_width, y_jump = a.y_jump, k = a.k;
  const int64_t residual_stride = a.residual_stride;
  const float* x = walk.x;
  const float* residual = walk.residual;
  const float* next_w = walk.next_w;
  float* y = walk.out.y + walk.y_channel;
  int64_t column = walk.out.column;
  alignas(64) float memory[2 * Tile::kChunkFloats];
  InTurn chunk = {memory, memory + Tile::kChunkFloats};
  auto interleave = [&](const float* from) __attribute__((always_inline)) {
    Tile::interleave(from, walk.x_stride, chunk.ahead);
  };
  if (count > 0) interleave(x);
  for (; count > 0; --count) {
    Tile tile(walk.bias);
    const float *w = walk.w, *w_half = doubled;
    auto inputs = [&](auto many) __attribute__((always_inline)) {
      constexpr int kMany = decltype(many)::value;
      unrolled<0, kMany>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        tile.template multiply_add_pairs<0, Tile::kPairs, kInput, Tile>(chunk.now, w, w_half);
      });
      w = hidden(w + kMany * kBlock);
      w_half = hidden(w_half + kMany * kLanes);
      prefetch(next_w);
      prefetch(next_w + kLine);
      next_w += 2 * kLine;
    };
    const float* from = x;
    for (int64_t left = k / Tile::kInputs - 1; left > 0; --left) {
      chunk.next();
      interleave(from += Tile::kInputs);
      inputs(Constant<Tile::kInputs>{});
    }
    chunk.next();
    x += kInterleavedMr * walk.x_stride;
    if (count > 1) interleave(x);
    inputs(Constant<Tile::kInputs - kTogether>{});
    const float* const p = chunk.now + 2 * (Tile::kInputs - kTogether);
    unrolled<0, Tile::kPairs>([&](auto i) __attribute__((always_inline)) {
      constexpr int kPair = decltype(i)::value;
      unrolled<0, kTogether>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        tile.template multiply_add_pairs<kPair, kPair + 1, kInput, Tile>(p, w, w_half);
      });
      Vec firsts[2], lasts[2];
      tile.template finish<kPair, kHardswish>(bounds, firsts, lasts);
#pragma GCC unroll 2
      for (int pixel = 0; pixel < 2; ++pixel) {
        Vec first = firsts[pixel], last = lasts[pixel];
        if (residual != nullptr) {
          first = add(first, load(residual));
          last = add(last, load_low(residual + kBlock));
          residual += residual_stride;
        }
        store_now(y, first);
        store_low_now(y + kBlock, last);
        y += y_stride;
        if (++column == y_width) {
          column = 0;
          y += y_jump;
        }
      }
    });
  }
  walk.x = x;
  walk.residual = residual;
  walk.next_w = next_w;
  walk.out = {y - walk.y_channel, column};
}

// As many of m pixels as make whole tiles; returns how many are left: all of them where the copy of
// the weights would not pay, an output is missing, inputs make no chunks or are too many, or the
// activation is another.
inline int64_t interleave_pixels(const PointwiseArgs& a, Walk& walk, int64_t m) {
  if (m < 2 * kInterleavedMr || walk.channels != kBlock + kHalfBlock || a.k == 0 ||
      a.k % Interleaved::kInputs != 0 || a.k > kMostInterleaved || !is_cheap(a.activation)) {
    return m;
  }
  alignas(64) float doubled[kMostInterleaved * kLanes];
  double_half_block(walk.w + a.w_block_stride, a.k, doubled);
  (a.activation == kActHardswish ? interleaved_tiles<true>
                                 : interleaved_tiles<false>)(a, walk, doubled, m / kInterleavedMr);
  return m % kInterleavedMr;
}
