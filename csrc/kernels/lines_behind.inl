// LinesBehind, written between tiles. Uses kStreams, kLanes, load and stream of simd/.

// Where a line is one vector.
constexpr bool kWritesBehind = kStreams && kLanes == kBlock;

// Up to kMost of them.
template <int kMost>
inline __attribute__((always_inline)) void write_behind(LinesBehind& behind) {
  if (behind.lines == 0) return;
  const int64_t lines = behind.lines < kMost ? behind.lines : kMost;
  if (lines == kMost) {
#pragma GCC unroll 14
    for (int i = 0; i < kMost; ++i) stream(behind.to + i * kLanes, load(behind.from + i * kLanes));
  } else {
    for (int64_t i = 0; i < lines; ++i) {
      stream(behind.to + i * kLanes, load(behind.from + i * kLanes));
    }
  }
  behind.from += lines * kLanes;
  behind.to += lines * kLanes;
  behind.lines -= lines;
}

// So many pixels are in the first buffer: their lines, to `to`, are the next.
inline void turn_behind(LinesBehind& behind, float* to, int64_t pixels, int64_t channels) {
  float* const filled = behind.buffers[0];
  behind = {{behind.buffers[1], filled}, filled, to, pixels * channels / kLanes};
}
