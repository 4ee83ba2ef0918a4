// NCHW planes moved whole, as a channel shuffle orders them: bytes, whatever type they are of.
//
// A call of memcpy is as long as the copy where a plane is a few vectors (7 x 7 floats are 196
// bytes), and glibc's, by vectors of 64 bytes, nearly always stores across lines. The last vector
// of a plane reaches back over what is copied.

inline void copy_plane(unsigned char* y, const unsigned char* x, int64_t bytes) {
  constexpr int64_t kVector = kLanes * int64_t{sizeof(float)};
  if constexpr (kLanes >= 8) {
    if (kVector <= bytes && bytes <= 16 * kVector) {
      auto move = [&](int64_t at) {
        store(reinterpret_cast<float*>(y + at), load(reinterpret_cast<const float*>(x + at)));
      };
      for (int64_t at = 0; at < bytes - kVector; at += kVector) move(at);
      move(bytes - kVector);
      return;
    }
  }
  __builtin_memcpy(y, x, static_cast<size_t>(bytes));
}

void shuffle_planes(const ShufflePlanesArgs& args) {
  const ShufflePlanesArgs a = args;  // a copy that the stores to y can't change stays in registers
  int64_t i = a.first / a.groups, j = a.first % a.groups;
  const int64_t to_group = a.per_group * a.x_stride;
  unsigned char* y = a.y;
  for (int64_t plane = 0; plane < a.planes; ++plane, y += a.bytes) {
    copy_plane(y, a.x + j * to_group + i * a.x_stride, a.bytes);
    // counted on instead of divided: small planes take no longer than a division
    if (++j == a.groups) {
      j = 0;
      ++i;
    }
  }
}
