// Max pooling of one output row, vectorised over channels.
//
// A window of 3 with stride 2, the one of ShuffleNet's and ResNet's stems, shares every other
// column between neighbours: the maximum of a column over its rows is taken once, so that an output
// costs six loads instead of nine. A maximum does not depend on the order, except for which NaN.

template <bool kTail>
inline Vec max_of_column(const MaxPoolArgs& a, int64_t column, int64_t c, int64_t lanes) {
  const int64_t at = column * a.x_stride + c;
  Vec best = load_channels<kTail>(a.x_rows[0] + at, lanes);
  for (int64_t u = 1; u < a.rows; ++u) {
    best = max_nan(best, load_channels<kTail>(a.x_rows[u] + at, lanes));
  }
  return best;
}

template <bool kTail>
inline void max_pool_channels(const MaxPoolArgs& a, int64_t c, int64_t lanes) {
  float* y = a.y + c;
  if (a.taps == 3 && a.stride == 2 && a.dilation == 1) {
    Vec shared = a.columns > 0 ? max_of_column<kTail>(a, 0, c, lanes) : zero();
    for (int64_t j = 0; j < a.columns; ++j) {
      const Vec middle = max_of_column<kTail>(a, 2 * j + 1, c, lanes);
      const Vec last = max_of_column<kTail>(a, 2 * j + 2, c, lanes);
      store_channels<kTail>(y + j * a.y_stride, max_nan(max_nan(shared, middle), last), lanes);
      shared = last;
    }
    return;
  }
  for (int64_t j = 0; j < a.columns; ++j) {
    Vec best = max_of_column<kTail>(a, j * a.stride, c, lanes);
    for (int64_t v = 1; v < a.taps; ++v) {
      best = max_nan(best, max_of_column<kTail>(a, j * a.stride + v * a.dilation, c, lanes));
    }
    store_channels<kTail>(y + j * a.y_stride, best, lanes);
  }
}

void max_pool_f32(const MaxPoolArgs& a) {
  int64_t c = 0;
  for (; c + kLanes <= a.channels; c += kLanes) max_pool_channels<false>(a, c, kLanes);
  if (c < a.channels) max_pool_channels<true>(a, c, a.channels - c);
}
