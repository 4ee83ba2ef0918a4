// Depthwise tiles where there are 32 registers: 14 columns of a vector of channels, or 7 columns of
// two. Uses Strided and its loads of simd/.
//
// Fourteen chains of FMAs keep two units of four cycles busy, seven do not. Each input is loaded
// once and given to all its taps: 3x3 stride 1 loads 16 inputs + 3 weights for 42 FMAs, 5x5 18 + 5
// for 70, stride 2 29 + 3 and 31 + 5. That leaves room for loads that cross a line, which count
// twice: pixels of 24 or 72 channels take no longer than those of whole lines, and rings need no
// padding. An address that is the one before plus a stride waits for it, a cycle each: 3x3 stride 2
// took 109 cycles a tile that way, 85 with each input an operand of its own.

// Adds the products of all kernel rows, the first kLeft and the last kRight input columns of each
// left out. w: tap 0 of the first row.
template <int kKernel, int kStride, int kColumns, int kVecs, bool kHalf, int kLeft, int kRight>
inline __attribute__((always_inline)) void strided_depthwise_rows(Vec* acc, const float* const* row,
                                                                  int64_t rows, int64_t x_at,
                                                                  int64_t x_stride,
                                                                  const float* w) {
  constexpr int kVec = static_cast<int>(kLanes);
  constexpr int kBlockTaps = kKernel * kKernel * static_cast<int>(kBlock);
#pragma GCC unroll 1
  for (int64_t left = rows; left > 0; --left, w += kKernel * kBlock) {
    const float* const first = *row++ + x_at;
    const Strided near(first, x_stride), far(first + 18 * x_stride, x_stride);
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

// Out of line: no network needs it, and tiles are many.
__attribute__((noinline)) void stream_pixels(const float* values, int pixels, int vecs, float* y,
                                             int64_t y_stride) {
  for (int i = 0; i < pixels; ++i, y += y_stride) {
    for (int j = 0; j < vecs; ++j, values += kLanes) stream(y + j * kLanes, load(values));
  }
}

// Stores a tile and counts the columns from `counted` on in a.sum.
template <int kColumns, int kVecs, bool kHalf>
inline __attribute__((always_inline)) void strided_depthwise_store(const DepthwiseArgs& a,
                                                                   const Vec* acc, int64_t column,
                                                                   int64_t counted, int64_t c) {
  float* y = a.y + column * a.y_stride + c;
  if (!kHalf && __builtin_expect(a.stream, false)) {
    float values[kColumns * kVecs * kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kColumns * kVecs; ++i) store(values + i * kLanes, acc[i]);
    stream_pixels(values, kColumns, kVecs, y, a.y_stride);
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) {
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) {
        if (kHalf) {
          store_low_now(y, acc[t]);
        } else {
          store_now(y + j * kLanes, acc[t * kVecs + j]);
        }
      }
      y += a.y_stride;
    }
  }
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
}

// Output columns [column, column + kColumns) of channels [c, c + kVecs * kLanes), or of eight, by
// halves of vectors. The first `counted` columns have been counted in a.sum before. w: tap 0 of the
// first row for channel c.
template <int kKernel, int kStride, int kColumns, int kVecs, bool kHalf>
inline __attribute__((always_inline)) void strided_depthwise_tile(const DepthwiseArgs& a,
                                                                  const float* w, int64_t column,
                                                                  int64_t counted, int64_t c) {
  Vec acc[kColumns * kVecs];
#pragma GCC unroll 2
  for (int j = 0; j < kVecs; ++j) {
    const Vec bias = kHalf ? load_low(a.bias + c) : load(a.bias + c + j * kLanes);
#pragma GCC unroll 16
    for (int t = 0; t < kColumns; ++t) acc[t * kVecs + j] = bias;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kColumns * kVecs; ++i) settle(acc[i]);

  constexpr int kLeft = kZerosLeft<kKernel>, kRight = kZerosRight<kKernel, kStride>;
  const bool left = column == 0 && a.zeros_left >= kLeft;
  const bool right = column + kColumns == a.columns && a.zeros_right >= kRight;
  const int64_t x_at = column * kStride * a.x_stride + c;
  auto rows = [&](auto skip_left, auto skip_right) __attribute__((always_inline)) {
    strided_depthwise_rows<kKernel, kStride, kColumns, kVecs, kHalf, decltype(skip_left)::value,
                           decltype(skip_right)::value>(acc, a.x_rows, a.rows, x_at, a.x_stride, w);
  };
  if (left && right) {
    rows(Constant<kLeft>{}, Constant<kRight>{});
  } else if (left) {
    rows(Constant<kLeft>{}, Constant<0>{});
  } else if (right) {
    rows(Constant<0>{}, Constant<kRight>{});
  } else {
    rows(Constant<0>{}, Constant<0>{});
  }

  activate_all(acc, a.activation);
  strided_depthwise_store<kColumns, kVecs, kHalf>(a, acc, column, counted, c);
}

// Output columns [column, column + 14) of eight channels in seven vectors: lanes 0 to 7 are one of
// the first seven columns, 8 to 15 the one seven behind it. Both meet each tap at once, and inputs
// as far apart: half the FMAs of a tile by halves where those of 512 bits take no longer.
template <int kKernel, int kStride>
inline __attribute__((always_inline)) void strided_depthwise_pairs(const DepthwiseArgs& a,
                                                                   const float* w, int64_t column,
                                                                   int64_t counted, int64_t c) {
  constexpr int kHigh = 7;
  Vec acc[kHigh];
  const Vec bias = low_and_low(load_low(a.bias + c), load_low(a.bias + c));
#pragma GCC unroll 7
  for (int t = 0; t < kHigh; ++t) {
    acc[t] = bias;
    settle(acc[t]);
  }

  const int64_t x_at = column * kStride * a.x_stride + c;
  const float* const* row = a.x_rows;
#pragma GCC unroll 1
  for (int64_t left = a.rows; left > 0; --left, w += kKernel * kBlock) {
    const float* const first = *row++ + x_at;
    const Strided near(first, a.x_stride), far(first + kHigh * kStride * a.x_stride, a.x_stride);
    Vec taps[kKernel];
    unrolled<0, kKernel>([&](auto i) __attribute__((always_inline)) {
      constexpr int kTap = decltype(i)::value;
      taps[kTap] = load_twice_now<kTap* static_cast<int>(kBlock)>(w);
    });
    unrolled<0, (kHigh - 1) * kStride + kKernel>([&](auto i) __attribute__((always_inline)) {
      constexpr int kInput = decltype(i)::value;
      Vec input = load_half_at<kInput>(near);
      insert_high_at<kInput>(input, far);
      using Meets = Meeting<kKernel, kStride, kHigh, kInput>;
      unrolled<Meets::kFirst, Meets::kEnd>([&](auto t) __attribute__((always_inline)) {
        accumulate_now(acc[decltype(t)::value], input, taps[kInput - decltype(t)::value * kStride]);
      });
    });
  }

  activate_all(acc, a.activation);
  Vec columns[2 * kHigh];
#pragma GCC unroll 7
  for (int t = 0; t < kHigh; ++t) {
    columns[t] = acc[t];
    columns[kHigh + t] = high(acc[t]);
  }
  strided_depthwise_store<2 * kHigh, 1, true>(a, columns, column, counted, c);
}

// Tiles from column first to column last: all whole vectors of channels, and a half vector if that
// is what is left.
template <int kKernel, int kStride, int kColumns, int kVecs>
__attribute__((noinline)) void strided_depthwise_columns(const DepthwiseArgs& args, int64_t first,
                                                         int64_t last, int64_t counted) {
  DepthwiseArgs a = args;  // a copy that the stores to y can't change stays in registers
  // Past the caches only where every line is written by one store. Asked for here, where there is a
  // copy: one more per row took 1 % of MobileNetV3-Small.
  a.stream =
      a.stream && a.channels % kLanes == 0 && can_stream(a.y, a.columns > 1 ? a.y_stride : 0);
  constexpr int64_t kBlockTaps = kKernel * kKernel * kBlock;
  for (int64_t at = first; at < last; at += kColumns) {
    const float* w = a.w + a.first_row * kKernel * kBlock;
    int64_t c = 0;
    for (; c + kVecs * kLanes <= a.channels; c += kVecs * kLanes, w += kVecs * kBlockTaps) {
      strided_depthwise_tile<kKernel, kStride, kColumns, kVecs, false>(a, w, at, counted, c);
    }
    if constexpr (kVecs > 1) {
      if (c + kLanes <= a.channels) {
        strided_depthwise_tile<kKernel, kStride, kColumns, 1, false>(a, w, at, counted, c);
        c += kLanes;
        w += kBlockTaps;
      }
    }
    if (a.channels - c == kHalfBlock) {
      if constexpr (kColumns == 14) {
        strided_depthwise_pairs<kKernel, kStride>(a, w, at, counted, c);
      } else {
        strided_depthwise_tile<kKernel, kStride, kColumns, 1, true>(a, w, at, counted, c);
      }
    }
  }
  if (a.stream) stream_fence();
}

// A row of at least kFewColumns. Its last tile begins early enough to be a whole one: some columns
// are computed twice, to the same bits.
constexpr int64_t kFewColumns = 7;
template <int kKernel, int kStride>
inline void strided_depthwise_row(const DepthwiseArgs& a) {
  const int64_t columns = a.columns, many = columns - columns % 14;
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
