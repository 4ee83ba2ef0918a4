// Max pooling of one output row, vectorised over channels.
//
// A window of 3 with stride 2, the one of ShuffleNet's and ResNet's stems, shares every other
// column between neighbours: the maximum of a column over its rows is taken once, so that an output
// costs six loads instead of nine. A maximum does not depend on the order, except for which NaN and
// which of two zeros.

// kRows: of the window, where they are known to be three; else 0.
template <bool kTail, int kRows>
inline Vec max_of_column(const MaxPoolArgs& a, int64_t at, int64_t lanes) {
  Vec best = load_channels<kTail>(a.x_rows[0] + at, lanes);
  if constexpr (kRows == 3) {
    return max_nan(best, load_channels<kTail>(a.x_rows[1] + at, lanes),
                   load_channels<kTail>(a.x_rows[2] + at, lanes));
  }
  for (int64_t u = 1; u < a.rows; ++u) {
    best = max_nan(best, load_channels<kTail>(a.x_rows[u] + at, lanes));
  }
  return best;
}

// Output columns [first, last).
template <bool kTail, int kRows>
inline void max_pool_3s2(const MaxPoolArgs& a, int64_t first, int64_t last, int64_t c,
                         int64_t lanes) {
  int64_t at = 2 * first * a.x_stride + c;
  Vec shared = max_of_column<kTail, kRows>(a, at, lanes);
  for (int64_t j = first; j < last; ++j) {
    const Vec middle = max_of_column<kTail, kRows>(a, at + a.x_stride, lanes);
    at += 2 * a.x_stride;
    const Vec right = max_of_column<kTail, kRows>(a, at, lanes);
    store_channels<kTail>(a.y + j * a.y_stride + c, max_nan(shared, middle, right), lanes);
    shared = right;
  }
}

template <bool kTail>
inline void max_pool_channels(const MaxPoolArgs& a, int64_t first, int64_t last, int64_t c,
                              int64_t lanes) {
  if (a.taps == 3 && a.stride == 2 && a.dilation == 1) {
    if (a.rows == 3) {
      max_pool_3s2<kTail, 3>(a, first, last, c, lanes);
    } else {
      max_pool_3s2<kTail, 0>(a, first, last, c, lanes);
    }
    return;
  }
  for (int64_t j = first; j < last; ++j) {
    const int64_t at = j * a.stride * a.x_stride + c;
    Vec best = max_of_column<kTail, 0>(a, at, lanes);
    for (int64_t v = 1; v < a.taps; ++v) {
      best = max_nan(best, max_of_column<kTail, 0>(a, at + v * a.dilation * a.x_stride, lanes));
    }
    store_channels<kTail>(a.y + j * a.y_stride + c, best, lanes);
  }
}

void WEEBILL_TYPED(max_pool)(const MaxPoolArgs& a) {
  // So few columns at a time that they stay in the first cache for all channels.
  constexpr int64_t kColumns = 16;
  for (int64_t first = 0; first < a.columns; first += kColumns) {
    const int64_t last = first + kColumns < a.columns ? first + kColumns : a.columns;
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      max_pool_channels<false>(a, first, last, c, kLanes);
    }
    if (c < a.channels) max_pool_channels<true>(a, first, last, c, a.channels - c);
  }
}
