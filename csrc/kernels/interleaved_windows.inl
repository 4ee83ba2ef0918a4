// Tiles of a first convolution with 24 outputs for processors whose every operation on 512 bits
// takes an FMA's port: interleaved_tiles.inl on the windows of window_tiles.inl. A kernel row is
// interleaved at once, 189 FMAs for 6 permutations of planes or 11 of pixels. Emerald Rapids, 224 x
// 224: 129 us, by blends 146.

// Of planes, the even numbers of each and the odd ones: neighbours in them are one column's taps in
// neighbouring windows.
template <int kStep>
struct InterleavedRow {
  static constexpr int kFloats = kWindowChannels * 2 * static_cast<int>(kLanes);

  template <int kPair, int kInput>
  static constexpr int kAt = kInput % kWindowChannels * 2 * static_cast<int>(kLanes) + 2 * kPair +
                             (kInput / kWindowChannels == 1 ? static_cast<int>(kLanes) : 0) +
                             (kInput / kWindowChannels == 2 ? 1 : 0);

  static __attribute__((always_inline)) void interleave(const WindowRow<kStep>& row, float* to) {
    static_assert(kStep == 1 && kWindowMr == 14);
    // Numbers 0 to 15 are lanes of the first vector, 13 to 28 of the second.
    static constexpr int32_t kEven[] = {0, 2, 4, 6, 8, 10, 12, 14, 19, 21, 23, 25, 27, 29, 31, 31};
    static constexpr int32_t kOdd[] = {1, 3, 5, 7, 9, 11, 13, 15, 20, 22, 24, 26, 28, 30, 31, 31};
    const Lanes even = load_lanes_now(kEven), odd = load_lanes_now(kOdd);
#pragma GCC unroll 3
    for (int c = 0; c < kWindowChannels; ++c, to += 2 * kLanes) {
      const Vec low = load(row.p[c]), high = load(row.p[c] + 13);
      store_now(to, permuted(low, high, even));
      store_now(to + kLanes, permuted(low, high, odd));
    }
  }
};

// Of pixels, a vector per pair with its first eight inputs, and the ninth of two pairs in another.
template <>
struct InterleavedRow<kWindowChannels> {
  static constexpr int kPairs = kWindowMr / 2;
  static constexpr int kFloats = (kPairs + (kPairs + 1) / 2) * static_cast<int>(kLanes);

  template <int kPair, int kInput>
  static constexpr int kAt = static_cast<int>(kLanes) * (kInput < 8 ? kPair : kPairs + kPair / 2) +
                             (kInput < 8 ? 2 * kInput : kPair % 2 * 2);

  static __attribute__((always_inline)) void interleave(const WindowRow<kWindowChannels>& row,
                                                        float* to) {
    static constexpr int32_t kEight[] = {0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 6, 12, 7, 13};
    static constexpr int32_t kNinth[] = {8, 14, 24, 30, 8, 14, 24, 30,
                                         8, 14, 24, 30, 8, 14, 24, 30};
    constexpr int kApart = 4 * kWindowChannels;  // from a pair to the next
    constexpr int kInputs = 15;                  // of two windows
    const Lanes eight = load_lanes_now(kEight), ninth = load_lanes_now(kNinth);
    const float* const x = row.p[0];
#pragma GCC unroll 3
    for (int j = 0; j + 1 < kPairs; j += 2) {
      const Vec pair = load(x + j * kApart), next = load(x + (j + 1) * kApart);
      store_now(to + j * kLanes, permuted(pair, pair, eight));
      store_now(to + (j + 1) * kLanes, permuted(next, next, eight));
      store_now(to + (kPairs + j / 2) * kLanes, permuted(pair, next, ninth));
    }
    const Vec last = load_n(x + (kPairs - 1) * kApart, kInputs);  // what is behind may not exist
    store_now(to + (kPairs - 1) * kLanes, permuted(last, last, eight));
    store_now(to + (kPairs + kPairs / 2) * kLanes, permuted(last, last, ninth));
  }
};

// As window_tiles(); `doubled` are the half block's weights as double_half_block() makes them.
template <int kStep, bool kHardswish>
__attribute__((noinline)) void interleaved_window_tiles(const PointwiseArgs& a, const Walk& walk,
                                                        const float* doubled, int64_t count) {
  using Tile = Interleaved;
  using Row = InterleavedRow<kStep>;
  static_assert(kWindowMr == kInterleavedMr);
  constexpr int64_t kTileFloats = 2 * kWindowMr * kStep;  // from a tile to the next
  constexpr int kEarly = kWindowRun - kTogether;          // inputs of the last row
  const Bounds bounds = bounds_of(a.activation);
  const int64_t rows = a.k / kWindowRun, y_stride = a.y_stride;
  const int64_t* const offsets = a.offsets;
  const WindowRows below(a);
  const int64_t plane = below.plane;
  const float* x = walk.x;
  float* y = walk.out.y + walk.y_channel;
  alignas(64) float memory[2 * Row::kFloats];
  InTurn inputs = {memory, memory + Row::kFloats};
  auto interleave = [&](const float* from, int64_t offset) __attribute__((always_inline)) {
    const float* const p = from + offset;
    Row::interleave(WindowRow<kStep>{{p, p + plane, p + 2 * plane}}, inputs.ahead);
  };
  if (count > 0) interleave(x, offsets[0]);
  for (; count > 0; --count, x += kTileFloats) {
    Tile tile(walk.bias);
    below.template fetch<kStep, kWindowMr>(x);
    const float *w = walk.w, *w_half = doubled;
    auto multiply = [&](auto many) __attribute__((always_inline)) {
      unrolled<0, decltype(many)::value>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        tile.template multiply_add_pairs<0, Tile::kPairs, kInput, Row>(inputs.now, w, w_half);
      });
    };
    for (int64_t row = 1; row < rows; ++row) {
      inputs.next();
      interleave(x, offsets[row * kWindowRun]);
      multiply(Constant<kWindowRun>{});
      w = hidden(w + kWindowRun * kBlock);
      w_half = hidden(w_half + kWindowRun * kLanes);
    }
    inputs.next();
    if (count > 1) interleave(x + kTileFloats, offsets[0]);
    multiply(Constant<kEarly>{});
    unrolled<0, Tile::kPairs>([&](auto i) __attribute__((always_inline)) {
      constexpr int kPair = decltype(i)::value;
      unrolled<kEarly, kWindowRun>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        tile.template multiply_add_pairs<kPair, kPair + 1, kInput, Row>(inputs.now, w, w_half);
      });
      Vec firsts[2], lasts[2];
      tile.template finish<kPair, kHardswish>(bounds, firsts, lasts);
#pragma GCC unroll 2
      for (int pixel = 0; pixel < 2; ++pixel, y += y_stride) {
        store_now(y, firsts[pixel]);
        store_low_now(y + kBlock, lasts[pixel]);
      }
    });
  }
}

// `count` tiles of windows.
template <int kStep>
inline void interleaved_windows(const PointwiseArgs& a, const Walk& walk, int64_t count) {
  alignas(64) float doubled[kMostInterleaved * kLanes];
  double_half_block(walk.w + a.w_block_stride, a.k, doubled);
  (a.activation == kActHardswish ? interleaved_window_tiles<kStep, true>
                                 : interleaved_window_tiles<kStep, false>)(a, walk, doubled, count);
}

// All m pixels of a column of blocks; false, and nothing done, where they are no such windows, an
// output is missing or the activation is another. The last tile begins early enough to be a whole
// one: some pixels are computed twice, to the same bits.
template <int kFull, int kHalf, Units kUnits>
inline bool windows(const PointwiseArgs& a, const Walk& walk, int64_t m) {
  const int64_t step = walk.x_stride / 2;
  if (m < kWindowMr || (walk.x_stride != 2 && walk.x_stride != 2 * kWindowChannels) ||
      walk.residual != nullptr || a.y_block_jump != 0 ||
      walk.channels != kFull * kBlock + kHalf * kHalfBlock || walk.out.column + m > a.y_width ||
      !is_cheap(a.activation) || !in_window_rows(a, step)) {
    return false;
  }
  constexpr bool kOperands = kUnits != Units::kFree;
  auto tiles = step == 1 ? &window_tiles<1, kFull, kHalf, kOperands>
                         : &window_tiles<kWindowChannels, kFull, kHalf, kOperands>;
  if constexpr (kUnits == Units::kShared && kPaired<kFull, kHalf>) {
    if (a.k <= kMostInterleaved) {
      tiles = step == 1 ? &interleaved_windows<1> : &interleaved_windows<kWindowChannels>;
    }
  }
  tiles(a, walk, m / kWindowMr);
  if (m % kWindowMr != 0) {
    Walk last = walk;
    last.x += (m - kWindowMr) * walk.x_stride;
    last.out.y += (m - kWindowMr) * a.y_stride;
    tiles(a, last, 1);
  }
  return true;
}
