// Depthwise tiles where there are 32 registers: 14 columns of a vector of channels, or 7 columns of
// two. Uses Strided and its loads of simd/.
//
// Fourteen chains of FMAs keep two units of four cycles busy, seven do not. Each input is loaded
// once and given to all its taps: 3x3 stride 1 loads 16 inputs + 3 weights for 42 FMAs, 5x5 18 + 5
// for 70, stride 2 29 + 3 and 31 + 5. That leaves room for loads that cross a line, which count
// twice: pixels of 24 or 72 channels take no longer than those of whole lines, and rings need no
// padding. An address that is the one before plus a stride waits for it, a cycle each: 3x3 stride 2
// took 109 cycles a tile that way, 85 with each input an operand of its own.

constexpr bool kLeavesZerosOut = true;

// What the tiles of a row share. Every tile loads it anew: what gcc 12 keeps from tile to tile, and
// addresses made from that, it counts up on the stack and in vector registers. A tile of 3x3 is 63
// cycles of FMAs, and on an Emerald Rapids its 300 instructions come at 5 a cycle: 14 pixels of 128
// channels took 751 cycles that way and 658 so, with hardswish 961 and 866.
struct RowOfTiles {
  const float* const* x_rows;
  int64_t rows;
  int64_t x_one, x_three, x_five, x_seven, x_nine;  // strides of x, in bytes
  int64_t y_one, y_three;                           // of y
  const float* bias;
  float* sum;
  HalfLines* lines;  // or nullptr
  const float* ahead;
  int64_t ahead_row;
  int32_t activation;
  bool stream;
  bool rare;  // there are sums, or outputs go past the caches

  RowOfTiles(const DepthwiseArgs& a, HalfLines* half_lines, bool past_caches)
      : x_rows(a.x_rows),
        rows(a.rows),
        x_one(4 * a.x_stride),
        x_three(3 * x_one),
        x_five(5 * x_one),
        x_seven(7 * x_one),
        x_nine(9 * x_one),
        y_one(4 * a.y_stride),
        y_three(3 * y_one),
        bias(a.bias),
        sum(a.sum),
        lines(half_lines),
        ahead(a.ahead != nullptr ? a.ahead->x : nullptr),
        ahead_row(a.ahead != nullptr ? 4 * a.ahead->row_stride : 0),
        activation(a.activation),
        stream(past_caches),
        rare(past_caches || a.sum != nullptr) {}
};
inline const RowOfTiles& anew(const RowOfTiles& row) {
  const RowOfTiles* p = &row;
  hide(p);
  return *p;
}

inline float* behind(float* p, int64_t bytes) {
  return reinterpret_cast<float*>(reinterpret_cast<char*>(p) + bytes);
}
inline const float* behind(const float* p, int64_t bytes) {
  return reinterpret_cast<const float*>(reinterpret_cast<const char*>(p) + bytes);
}

// Adds the products of all kernel rows, the first kLeft and the last kRight input columns of each
// left out. w: tap 0 of the first row. x_at: of the tile in each row, in bytes.
template <int kKernel, int kStride, int kColumns, int kVecs, bool kHalf, int kLeft, int kRight>
inline __attribute__((always_inline)) void strided_depthwise_rows(Vec* acc,
                                                                  const RowOfTiles& shared,
                                                                  int64_t x_at, const float* w) {
  constexpr int kVec = static_cast<int>(kLanes);
  constexpr int kBlockTaps = kKernel * kKernel * static_cast<int>(kBlock);
  const RowOfTiles& a = anew(shared);
  const int64_t nine = a.x_nine;
  const float* const* row = a.x_rows;
  Strided near, far;
  near.one = far.one = a.x_one;
  near.three = far.three = a.x_three;
  near.five = far.five = a.x_five;
  near.seven = far.seven = a.x_seven;
#pragma GCC unroll 1
  for (int64_t left = a.rows; left > 0; --left, w += kKernel * kBlock) {
    near.p = behind(*row++, x_at);
    near.p9 = behind(near.p, nine);
    far.p = behind(near.p9, nine);
    far.p9 = behind(far.p, nine);
    Vec taps[kKernel * kVecs];
    unrolled<0, kKernel * kVecs>([&](auto i) __attribute__((always_inline)) {
      constexpr int kTap = decltype(i)::value / kVecs, kOf = decltype(i)::value % kVecs;
      constexpr int kAt = kOf * kBlockTaps + kTap * static_cast<int>(kBlock);
      taps[kTap * kVecs + kOf] = kHalf ? load_half_now<kAt>(w) : load_now<kAt>(w);
    });
    constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
    unrolled<kLeft, kInputs - kRight>([&](auto i) __attribute__((always_inline)) {
      constexpr int kInput = decltype(i)::value;
      const Strided& x = kInput < 18 ? near : far;
      Vec input[kVecs];
      unrolled<0, kVecs>([&](auto j) __attribute__((always_inline)) {
        constexpr int kOf = decltype(j)::value;
        input[kOf] = kHalf ? load_half_at<kInput % 18>(x) : load_at<kInput % 18, kOf * kVec>(x);
      });
      using Meets = Meeting<kKernel, kStride, kColumns, kInput>;
      unrolled<Meets::kFirst, Meets::kEnd>([&](auto t) __attribute__((always_inline)) {
        constexpr int kColumn = decltype(t)::value;
        constexpr int kTap = kInput - kColumn * kStride;
        if constexpr (kHalf) {
          accumulate_half_now(acc[kColumn], input[0], taps[kTap]);
        } else {
#pragma GCC unroll 2
          for (int j = 0; j < kVecs; ++j) {
            accumulate_now(acc[kColumn * kVecs + j], input[j], taps[kTap * kVecs + j]);
          }
        }
      });
    });
  }
}

// The zeros that are left out: padding of kKernel / 2 columns, on the right as far as an image of
// an even width meets it.
template <int kKernel>
constexpr int kZerosLeft = kKernel / 2;
template <int kKernel, int kStride>
constexpr int kZerosRight = (kKernel - kStride) / 2;

// At which ends of its row a tile is, where zeros are left out.
constexpr int kLeftEnd = 1, kRightEnd = 2;
// rows(zeros on the left, zeros on the right), both constants.
template <int kKernel, int kStride, typename Rows>
inline __attribute__((always_inline)) void at_ends(int ends, Rows&& rows) {
  constexpr Constant<0> kNone;
  constexpr Constant<kZerosLeft<kKernel>> kLeft;
  constexpr Constant<kZerosRight<kKernel, kStride>> kRight;
  if (ends == 0) {
    rows(kNone, kNone);
  } else if (ends == kLeftEnd) {
    rows(kLeft, kNone);
  } else if (ends == kRightEnd) {
    rows(kNone, kRight);
  } else {
    rows(kLeft, kRight);
  }
}

// The tile's part of the rows that come next, to the second cache: memory does not rest during the
// arithmetic. On an Emerald Rapids convolutions whose inputs the last cache does not hold any more
// take 5 to 30 % less, others 6 % less to 8 % more.
template <int kStride, int kColumns, int kVecs>
inline __attribute__((always_inline)) void fetch_rows_ahead(const RowOfTiles& shared,
                                                            int64_t x_at) {
  const RowOfTiles& a = anew(shared);
  const float* row = behind(a.ahead, x_at);
#pragma GCC unroll 2
  for (int r = 0; r < kStride; ++r) {
    const float* x = row;
#pragma GCC unroll 28
    for (int t = 0; t < kColumns * kStride; ++t) {
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) prefetch(x + j * kLanes);
      x = behind(x, a.x_one);
    }
    row = behind(row, a.ahead_row);
  }
}

// Stores a tile at y and counts the columns from `counted` on in the sum of channel c.
template <int kColumns, int kVecs, bool kHalf>
inline __attribute__((always_inline)) void strided_depthwise_store(const RowOfTiles& shared,
                                                                   const Vec* acc, float* y,
                                                                   int64_t counted, int64_t c) {
  const RowOfTiles& a = anew(shared);
  if (a.rare) {
    if (a.sum != nullptr) {
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) {
        float* to = a.sum + c + j * kLanes;
        Vec sum = kHalf ? load_low(to) : load(to);
#pragma GCC unroll 16
        for (int t = 0; t < kColumns; ++t) {
          if (t >= counted) sum = add(sum, acc[t * kVecs + j]);
        }
        if (kHalf) {
          store_low(to, sum);
        } else {
          store(to, sum);
        }
      }
    }
    if (kColumns == HalfLines::kColumns && a.lines != nullptr) {
      stream_half_lines<kColumns, 0>(*a.lines, y, a.y_one / 4, acc, c == 0, kHalf);
      return;
    }
    if (!kHalf && a.stream) {
#pragma GCC unroll 16
      for (int t = 0; t < kColumns; ++t) {
#pragma GCC unroll 2
        for (int j = 0; j < kVecs; ++j) stream(y + j * kLanes, acc[t * kVecs + j]);
        y = behind(y, a.y_one);
        hide(y);
      }
      return;
    }
  }
  const int64_t one = a.y_one, three = a.y_three;
  unrolled<0, kColumns>([&](auto i) __attribute__((always_inline)) {
    constexpr int kColumn = decltype(i)::value, kOf4 = kColumn % 4;
    constexpr int kScale = kOf4 == 3 ? 1 : kOf4;
    const int64_t multiple = kOf4 == 3 ? three : one;
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) {
      if (kHalf) {
        store_low_now<kScale>(y, multiple, acc[kColumn]);
      } else {
        store_now<kScale>(y + j * kLanes, multiple, acc[kColumn * kVecs + j]);
      }
    }
    if constexpr (kOf4 == 3) {
      y = behind(y, 4 * one);
      hide(y);
    }
  });
}

// kColumns output columns of channels [c, c + kVecs * kLanes), or of eight, by halves of vectors:
// at y, from inputs x_at bytes behind each row's first, at the ends of the row that `ends` names.
// The first `counted` columns have been counted in the sums before. w: tap 0 of the first row for
// channel c.
template <int kKernel, int kStride, int kColumns, int kVecs, bool kHalf>
inline __attribute__((always_inline)) void strided_depthwise_tile(const RowOfTiles& shared,
                                                                  const float* w, int64_t x_at,
                                                                  float* y, int ends,
                                                                  int64_t counted, int64_t c) {
  Vec acc[kColumns * kVecs];
  const float* const bias_at = anew(shared).bias + c;
#pragma GCC unroll 2
  for (int j = 0; j < kVecs; ++j) {
    const Vec bias = kHalf ? load_low(bias_at) : load(bias_at + j * kLanes);
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) acc[t * kVecs + j] = bias;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kColumns * kVecs; ++i) settle(acc[i]);

  at_ends<kKernel, kStride>(ends, [&](auto left, auto right) __attribute__((always_inline)) {
    strided_depthwise_rows<kKernel, kStride, kColumns, kVecs, kHalf, decltype(left)::value,
                           decltype(right)::value>(acc, shared, x_at, w);
  });

  activate_all(acc, anew(shared).activation);
  if (anew(shared).ahead != nullptr) fetch_rows_ahead<kStride, kColumns, kVecs>(shared, x_at);
  strided_depthwise_store<kColumns, kVecs, kHalf>(shared, acc, y, counted, c);
}

// Output columns [column, column + 14) of eight channels in seven vectors: lanes 0 to 7 are one of
// the first seven columns, 8 to 15 the one seven behind it. Both meet each tap at once, and inputs
// as far apart: half the FMAs of a tile by halves where those of 512 bits take no longer.
template <int kKernel, int kStride>
inline __attribute__((always_inline)) void strided_depthwise_pairs(const RowOfTiles& shared,
                                                                   const float* w, int64_t x_at,
                                                                   float* y, int ends,
                                                                   int64_t counted, int64_t c) {
  constexpr int kHigh = 7, kInputs = (kHigh - 1) * kStride + kKernel;
  Vec acc[kHigh];
  const RowOfTiles& a = anew(shared);
  const Vec bias = low_and_low(load_low(a.bias + c), load_low(a.bias + c));
#pragma GCC unroll 7
  for (int t = 0; t < kHigh; ++t) {
    acc[t] = bias;
    settle(acc[t]);
  }

  const int64_t x_stride = a.x_one / 4;
  at_ends<kKernel, kStride>(ends, [&](auto left, auto right) __attribute__((always_inline)) {
    constexpr int kLeft = decltype(left)::value, kRight = decltype(right)::value;
    const float* const* row = a.x_rows;
    const float* row_w = w;
#pragma GCC unroll 1
    for (int64_t rows = a.rows; rows > 0; --rows, row_w += kKernel * kBlock) {
      const float* const first = behind(*row++, x_at);
      const Strided near(first, x_stride), far(first + kHigh * kStride * x_stride, x_stride);
      Vec taps[kKernel];
      unrolled<0, kKernel>([&](auto i) __attribute__((always_inline)) {
        constexpr int kTap = decltype(i)::value;
        taps[kTap] = load_twice_now<kTap* static_cast<int>(kBlock)>(row_w);
      });
      unrolled<0, kInputs>([&](auto i) __attribute__((always_inline)) {
        constexpr int kInput = decltype(i)::value;
        Vec input;
        if constexpr (kInput < kLeft) {
          input = zero();
          settle(input);
        } else {
          input = load_half_at<kInput>(near);
        }
        if constexpr (kInput < kInputs - kRight) {
          insert_high_at<kInput>(input, far);
        }
        using Meets = Meeting<kKernel, kStride, kHigh, kInput>;
        unrolled<Meets::kFirst, Meets::kEnd>([&](auto t) __attribute__((always_inline)) {
          constexpr int kColumn = decltype(t)::value;
          accumulate_now(acc[kColumn], input, taps[kInput - kColumn * kStride]);
        });
      });
    }
  });

  activate_all(acc, a.activation);
  Vec columns[2 * kHigh];
#pragma GCC unroll 7
  for (int t = 0; t < kHigh; ++t) {
    columns[t] = acc[t];
    columns[kHigh + t] = high(acc[t]);
  }
  strided_depthwise_store<2 * kHigh, 1, true>(shared, columns, y, counted, c);
}

// Tiles from column first to column last: all whole vectors of channels, and a half vector if that
// is what is left.
template <int kKernel, int kStride, int kColumns, int kVecs>
__attribute__((noinline)) void strided_depthwise_columns(const DepthwiseArgs& a, int64_t first,
                                                         int64_t last, int64_t counted) {
  // Past the caches only where every line is written by one store.
  HalfLines half_lines;
  const bool halves = kColumns == HalfLines::kColumns && a.stream && a.columns % kColumns == 0 &&
                      fits_half_lines(a.y, a.y_stride, a.channels);
  const bool wholes =
      a.stream && a.channels % kLanes == 0 && can_stream(a.y, a.columns > 1 ? a.y_stride : 0);
  const RowOfTiles shared(a, halves ? &half_lines : nullptr, halves || wholes);
  constexpr int64_t kBlockTaps = kKernel * kKernel * kBlock;
  const int64_t channels = a.channels, columns = a.columns;
  const bool left = a.zeros_left >= kZerosLeft<kKernel>;
  const bool right = a.zeros_right >= kZerosRight<kKernel, kStride>;
  const float* const weights = a.w + a.first_row * kKernel * kBlock;
  const int64_t x_tile = 4 * kColumns * kStride * a.x_stride, y_tile = kColumns * a.y_stride;
  int64_t x_first = 4 * first * kStride * a.x_stride;
  float* y_first = a.y + first * a.y_stride;
  for (int64_t at = first; at < last; at += kColumns, x_first += x_tile, y_first += y_tile) {
    const int ends =
        (left && at == 0 ? kLeftEnd : 0) + (right && at + kColumns == columns ? kRightEnd : 0);
    const float* w = weights;
    float* y = y_first;
    int64_t x_at = x_first;
    int64_t c = 0;
    for (; c + kVecs * kLanes <= channels; c += kVecs * kLanes, w += kVecs * kBlockTaps) {
      strided_depthwise_tile<kKernel, kStride, kColumns, kVecs, false>(shared, w, x_at, y, ends,
                                                                       counted, c);
      y += kVecs * kLanes;
      x_at += 4 * kVecs * kLanes;
      hide(y);  // four numbers that are counted up, not four made from one
      hide(x_at);
      hide(w);
      hide(c);
    }
    if constexpr (kVecs > 1) {
      if (c + kLanes <= channels) {
        strided_depthwise_tile<kKernel, kStride, kColumns, 1, false>(shared, w, x_at, y, ends,
                                                                     counted, c);
        c += kLanes;
        w += kBlockTaps;
        y += kLanes;
        x_at += 4 * kLanes;
      }
    }
    if (channels - c == kHalfBlock) {
      if constexpr (kColumns == 14) {
        strided_depthwise_pairs<kKernel, kStride>(shared, w, x_at, y, ends, counted, c);
      } else {
        strided_depthwise_tile<kKernel, kStride, kColumns, 1, true>(shared, w, x_at, y, ends,
                                                                    counted, c);
      }
    }
  }
}

// A row of at least kFewColumns. Its last tile begins early enough to be a whole one: some columns
// are computed twice, to the same bits.
constexpr int64_t kFewColumns = 7;
template <int kKernel, int kStride>
inline void strided_depthwise_row(const DepthwiseArgs& a) {
  const int64_t columns = a.columns, many = columns - columns % 14;
  if (a.stream && a.y_stride % (2 * kLanes) == 0 && columns % kFewColumns == 0) {
    return strided_depthwise_columns<kKernel, kStride, 7, 2>(a, 0, columns, 0);
  }
  if (many > 0) strided_depthwise_columns<kKernel, kStride, 14, 1>(a, 0, many, 0);
  if (columns == many) return;
  if (columns - many > kFewColumns) {
    if (many > 0) {
      strided_depthwise_columns<kKernel, kStride, 14, 1>(a, columns - 14, columns,
                                                         14 - (columns - many));
      return;
    }
    strided_depthwise_columns<kKernel, kStride, 7, 2>(a, 0, 7, 0);
  }
  const int64_t rest = many > 0 || columns == kFewColumns ? columns - many : columns - 7;
  strided_depthwise_columns<kKernel, kStride, 7, 2>(a, columns - 7, columns, 7 - rest);
}
