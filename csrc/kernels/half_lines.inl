// Results past the caches where every other pixel of a row begins in the middle of a line: dense
// pixels of eight channels more than a multiple of 16, the first on a line.
//
// Vectors stored there as they are would have every line read from memory first. So each line is
// put together of two vectors, and stored once: of the upper half of a pixel's last one and the
// lower half of its next, and between two pixels of the last half of the one and the first half of
// the other. Written to a buffer and from there line by line, batches of 200 x 14 x 14 took 0.30 ms
// on two cores of an Emerald Rapids, so 0.18.
#if defined(WEEBILL_WHOLE_LINES)

constexpr bool kPutsLinesTogether = true;

// What waits for its other half, by columns of a tile.
struct HalfLines {
  static constexpr int kColumns = 14;
  alignas(64) float first[kColumns][kLanes];  // vectors of their pixels
  alignas(64) float last[kColumns][kLanes];
  alignas(64) float before[kLanes];  // the last vector of the pixel before the tile
};

inline bool fits_half_lines(const float* y, int64_t y_stride, int64_t channels) {
  return y_stride == channels && channels > kLanes && channels % kLanes == kLanes / 2 &&
         reinterpret_cast<uintptr_t>(y) % sizeof(Vec) == 0;
}

// The next vector of each column of a tile, whose first column is the first on a line or, with
// kOdd, the first that is not: from a pixel's first vector to the last, of which half counts, one
// call after the other; tile by tile along the row.
template <int kColumns, int kOdd>
inline __attribute__((always_inline)) void stream_half_lines(HalfLines& lines, float* y,
                                                             int64_t y_stride, const Vec* v,
                                                             bool first, bool last) {
  static_assert(kColumns <= HalfLines::kColumns);
  if (last) {
#pragma GCC unroll 14
    for (int t = 0; t < kColumns; ++t, y += y_stride) {
      if ((t + kOdd) % 2 == 1) {
        stream(y - kLanes / 2, high_and_low(load(lines.last[t]), v[t]));
      } else if (t + 1 < kColumns) {
        stream(y, low_and_low(v[t], load(lines.first[t + 1])));
      } else {
        store(lines.before, v[t]);
      }
    }
    return;
  }
#pragma GCC unroll 14
  for (int t = 0; t < kColumns; ++t, y += y_stride) {
    if ((t + kOdd) % 2 == 0) {
      stream(y, v[t]);
      continue;
    }
    if (!first) {
      stream(y - kLanes / 2, high_and_low(load(lines.last[t]), v[t]));
    } else if (t > 0) {
      store(lines.first[t], v[t]);
    } else {
      stream(y - kLanes / 2, low_and_low(load(lines.before), v[t]));
    }
    store(lines.last[t], v[t]);
  }
}

#else

constexpr bool kPutsLinesTogether = false;
struct HalfLines {};
inline bool fits_half_lines(const float*, int64_t, int64_t) { return false; }
template <int kColumns, int kOdd>
inline void stream_half_lines(HalfLines&, float*, int64_t, const Vec*, bool, bool) {}

#endif
