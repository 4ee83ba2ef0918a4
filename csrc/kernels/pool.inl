// Max pooling of one output row, vectorised over channels.
//
// A window of 3 with stride 2, the one of ShuffleNet's and ResNet's stems, shares every other
// column between neighbours: the maximum of a column over its rows is taken once, so that an output
// costs six loads instead of nine. A maximum does not depend on the order, except for which NaN and
// which of two zeros.

template <bool kTail>
inline Vec max_of_column(const MaxPoolArgs& a, int64_t at, int64_t lanes) {
  Vec best = load_channels<kTail>(a.x_rows[0] + at, lanes);
  for (int64_t u = 1; u < a.rows; ++u) {
    best = max_nan(best, load_channels<kTail>(a.x_rows[u] + at, lanes));
  }
  return best;
}

// Three columns and up to three rows: a row that is not there is one that is, once more.
template <bool kTail>
inline void max_pool_3s2(const MaxPoolArgs& a, int64_t first, int64_t last, int64_t c,
                         int64_t lanes) {
  const int64_t x_stride = a.x_stride, y_stride = a.y_stride;
  const int64_t at = 2 * first * x_stride + c;
  const Element* top = a.x_rows[0] + at;
  const Element* middle_row = a.x_rows[a.rows / 2] + at;
  const Element* bottom = a.x_rows[a.rows - 1] + at;
  Element* y = a.y + first * y_stride + c;
  auto max_of_rows = [&](int64_t offset) {
    return max_nan(load_channels<kTail>(top + offset, lanes),
                   load_channels<kTail>(middle_row + offset, lanes),
                   load_channels<kTail>(bottom + offset, lanes));
  };
  Vec shared = max_of_rows(0);
  for (int64_t j = first; j < last; ++j) {
    const Vec middle = max_of_rows(x_stride);
    const Vec right = max_of_rows(2 * x_stride);
    store_channels<kTail>(y, max_nan(shared, middle, right), lanes);
    shared = right;
    top += 2 * x_stride;
    middle_row += 2 * x_stride;
    bottom += 2 * x_stride;
    y += y_stride;
  }
}

template <bool kTail>
inline void max_pool_channels(const MaxPoolArgs& a, int64_t first, int64_t last, int64_t c,
                              int64_t lanes) {
  if (a.taps == 3 && a.stride == 2 && a.dilation == 1 && a.rows <= 3) {
    max_pool_3s2<kTail>(a, first, last, c, lanes);
    return;
  }
  for (int64_t j = first; j < last; ++j) {
    const int64_t at = j * a.stride * a.x_stride + c;
    Vec best = max_of_column<kTail>(a, at, lanes);
    for (int64_t v = 1; v < a.taps; ++v) {
      best = max_nan(best, max_of_column<kTail>(a, at + v * a.dilation * a.x_stride, lanes));
    }
    store_channels<kTail>(a.y + j * a.y_stride + c, best, lanes);
  }
}

// All channels from c on.
inline __attribute__((always_inline)) void max_pool_columns(const MaxPoolArgs& a, int64_t first,
                                                            int64_t last, int64_t c) {
  for (; c + kLanes <= a.channels; c += kLanes) {
    max_pool_channels<false>(a, first, last, c, kLanes);
  }
  if (c == a.channels) return;
#if defined(WEEBILL_NARROW_TAILS)
  narrow::max_pool_columns(a, first, last, c);
#else
  max_pool_channels<true>(a, first, last, c, a.channels - c);
#endif
}

void WEEBILL_TYPED(max_pool)(const MaxPoolArgs& a) {
  // So few columns at a time that they stay in the first cache for all channels.
  constexpr int64_t kColumns = 28;
  for (int64_t first = 0; first < a.columns; first += kColumns) {
    const int64_t last = first + kColumns < a.columns ? first + kColumns : a.columns;
    max_pool_columns(a, first, last, 0);
  }
}
