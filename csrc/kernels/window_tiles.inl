// Tiles of a network's first convolution: windows three wide, a stride of two, three channels,
// where there are 32 registers of 16 lanes. An input is kStep floats behind its neighbour to the
// left: 3 where an image's pixels lie together, 1 where its planes do. So every operand is a
// displacement from a pointer to the kernel row, or to that of each plane, where the table costs an
// offset and two additions for each of 27 inputs.
//
// Uses window_rows.inl, multiply_add_strided(), activate_now() and Walk.

constexpr int kWindowMr = 14;

// A kernel row of the tile's windows.
template <int kStep>
struct WindowRow {
  const float* p[kWindowChannels];
};
// Where input kInput of pixel kIndex is: at p[kPlane] + kAt.
template <int kIndex, int kInput, int kStep>
struct WindowInput {
  static constexpr int kChannel = kInput % kWindowChannels;
  static constexpr int kPlane = kStep == 1 ? kChannel : 0;
  static constexpr int kAt =
      kStep * (2 * kIndex + kInput / kWindowChannels) + (kStep == 1 ? 0 : kChannel);
};
template <int kIndex, int kInput, int kStep>
inline Vec broadcast_now(const WindowRow<kStep>& x) {
  using Input = WindowInput<kIndex, kInput, kStep>;
  return broadcast_now<Input::kAt>(x.p[Input::kPlane]);
}
template <int kIndex, int kInput, int kStep>
inline void accumulate_now(Vec& acc, const WindowRow<kStep>& x, Vec b) {
  using Input = WindowInput<kIndex, kInput, kStep>;
  accumulate_now<Input::kAt>(acc, x.p[Input::kPlane], b);
}

// kOperands: one block of outputs by the operands of FMAs.
template <int kStep, int kFull, int kHalf, bool kOperands>
struct WindowTile {
  using Row = WindowRow<kStep>;
  static constexpr int kVecs = kFull + kHalf;
  static constexpr bool kPairs = kPaired<kFull, kHalf>;
  static constexpr int kGroup = 2;  // pixels that are finished and stored at once

  Vec acc[kWindowMr * kVecs];
  float* y;
  const int64_t y_stride;
  const bool hardswish;
  const Bounds& bounds;

  __attribute__((always_inline)) WindowTile(const PointwiseArgs& a, const float* bias, float* to,
                                            const Bounds& low_and_high)
      : y(to),
        y_stride(a.y_stride),
        hardswish(a.activation == kActHardswish),
        bounds(low_and_high) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      const Vec b = load_bias<kFull, kHalf>(bias, j);
#pragma GCC unroll 16
      for (int i = 0; i < kWindowMr; ++i) acc[i * kVecs + j] = b;
    }
    settle_all<kWindowMr, kFull, kHalf>(acc);
  }

  template <int kFirst>
  __attribute__((always_inline)) void finish() {
    constexpr int kCount = kPairs ? 3 : kGroup * kVecs;
    if (hardswish) {
      activate_now<true, kCount>(acc + kFirst * kVecs, bounds);
    } else {
      activate_now<false, kCount>(acc + kFirst * kVecs, bounds);
    }
    if constexpr (kPairs) acc[2 * kFirst + 3] = high(acc[2 * kFirst + 1]);
#pragma GCC unroll 2
    for (int i = kFirst; i < kFirst + kGroup; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) {
        if (j < kFull) {
          store_now(y + j * kLanes, acc[i * kVecs + j]);
        } else {
          store_low_now(y + j * kLanes, acc[i * kVecs + j]);
        }
      }
      y += y_stride;
    }
  }

  // A kernel row. In the last one pixels are stored while the FMAs of the next ones run.
  template <bool kLast>
  __attribute__((always_inline)) void row(const Row& x, const float* const* w) {
    if constexpr (kVecs == 1 && !kOperands) {
      row_by_inputs<kLast>(x, w[0]);
    } else {
      constexpr int kLate = kLast ? 4 : 0;
      unrolled<0, kWindowRun - kLate>([&](auto u) __attribute__((always_inline)) {
        constexpr int kInput = decltype(u)::value;
        multiply_add_strided<0, kWindowMr, kFull, kHalf, kInput, false>(acc, x, w);
      });
      if constexpr (kLast) {
        unrolled<0, kWindowMr / kGroup>([&](auto group) __attribute__((always_inline)) {
          constexpr int kFirst = decltype(group)::value * kGroup;
          unrolled<kWindowRun - kLate, kWindowRun>([&](auto u) __attribute__((always_inline)) {
            constexpr int kInput = decltype(u)::value;
            multiply_add_strided<kFirst, kGroup, kFull, kHalf, kInput, false>(acc, x, w);
          });
          finish<kFirst>();
        });
      }
    }
  }

  // Windows overlap: with one block of outputs the row's weights fit into registers, and the 87
  // inputs of its 126 FMAs are loaded once. A Zen 4 has operands that are broadcast for nothing,
  // while broadcasts of their own, more than one for two FMAs, take turns with these: 112 pixels
  // 1145 ns so, 906 without. An Emerald Rapids has 14 chains of FMAs side by side that way, where
  // this has two in a row and the others as far ahead as it looks: 2314 cycles so, 1848 without;
  // the FMAs and hardswish are 1792.
  template <bool kLast>
  __attribute__((always_inline)) void row_by_inputs(const Row& x, const float* w) {
    Vec weights[kWindowRun];
    unrolled<0, kWindowRun>([&](auto u) __attribute__((always_inline)) {
      constexpr int kInput = decltype(u)::value;
      weights[kInput] = load_now<kInput* static_cast<int>(kBlock)>(w);
    });
    constexpr int kPixelInputs = 2 * kWindowChannels;  // from a pixel to the next
    constexpr int kInputs = (kWindowMr - 1) * kPixelInputs + kWindowRun;
    unrolled<0, kInputs>([&](auto i) __attribute__((always_inline)) {
      constexpr int kAt = decltype(i)::value;
      const Vec input = broadcast_now<0, kAt>(x);
      using Meets = Meeting<kWindowRun, kPixelInputs, kWindowMr, kAt>;
      unrolled<Meets::kFirst, Meets::kEnd>([&](auto t) __attribute__((always_inline)) {
        constexpr int kPixel = decltype(t)::value;
        constexpr int kInput = kAt - kPixel * kPixelInputs;
        accumulate_now(acc[kPixel], input, weights[kInput]);
        constexpr bool kEnds = kInput == kWindowRun - 1 && kPixel % kGroup == kGroup - 1;
        if constexpr (kLast && kEnds) finish<kPixel - kGroup + 1>();
      });
    });
  }
};

template <int kStep, int kFull, int kHalf, bool kOperands>
__attribute__((noinline)) void window_tiles(const PointwiseArgs& a, const Walk& walk,
                                            int64_t count) {
  constexpr int64_t kTileFloats = 2 * kWindowMr * kStep;  // from a tile to the next
  const Bounds bounds = bounds_of(a.activation);
  const int64_t rows = a.k / kWindowRun;
  const int64_t* const offsets = a.offsets;
  const int64_t block_stride = a.w_block_stride;
  const WindowRows ahead(a);
  const int64_t plane = ahead.plane;
  const float* x = walk.x;
  float* y = walk.out.y + walk.y_channel;
  for (; count > 0; --count, x += kTileFloats) {
    WindowTile<kStep, kFull, kHalf, kOperands> tile(a, walk.bias, y, bounds);
    const float* w[kFull + 1];
#pragma GCC unroll 4
    for (int j = 0; j <= kFull; ++j) w[j] = walk.w + j * block_stride;
    ahead.template fetch<kStep, kWindowMr>(x);
    auto row = [&](int64_t offset) __attribute__((always_inline)) {
      const float* p = x + offset;
      return WindowRow<kStep>{{p, p + plane, p + 2 * plane}};
    };
    const int64_t* offset = offsets;
    for (int64_t left = rows - 1; left > 0; --left, offset += kWindowRun) {
      tile.template row<false>(row(*offset), w);
#pragma GCC unroll 4
      for (int j = 0; j < kFull; ++j) w[j] = hidden(w[j] + kWindowRun * kBlock);
      if constexpr (kHalf > 0) w[kFull] = hidden(w[kFull] + kWindowRun * kHalfBlock);
    }
    tile.template row<true>(row(*offset), w);
    y = tile.y;
  }
}
