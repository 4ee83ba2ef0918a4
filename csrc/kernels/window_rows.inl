// The rows of a network's first convolution: windows three wide, a stride of two, three channels,
// whose pixels lie together (kStep 3) or whose planes do (kStep 1).
//
// A network's image comes from the last cache or from memory, in three or nine streams that end
// with every output row: the two rows of it that the next output row is the first to read are
// fetched while this one is computed. The same for the outputs gave nothing.

constexpr int kWindowChannels = 3;
constexpr int kWindowRun = 9;  // inputs of a kernel row

// Whether the offsets are those of kernel rows three wide, three channels to a pixel.
inline bool in_window_rows(const PointwiseArgs& a, int64_t step) {
  if (a.k == 0 || a.k % kWindowRun != 0) return false;
  const int64_t plane = a.offsets[1] - a.offsets[0];
  int64_t apart = step == 1 ? 0 : plane - 1;
  for (int64_t i = 0; i < a.k; i += kWindowRun) {
#pragma GCC unroll 9
    for (int64_t j = 1; j < kWindowRun; ++j) {
      apart |= a.offsets[i + j] - a.offsets[i] - j / kWindowChannels * step -
               j % kWindowChannels * plane;
    }
  }
  return apart == 0;
}

struct WindowRows {
  int64_t image_row;  // from an image row to the next
  int64_t first;      // from a window to the first row that is to be fetched
  int64_t plane;

  explicit WindowRows(const PointwiseArgs& a) {
    const int64_t* const last = a.offsets + a.k - kWindowRun;
    image_row = a.k > kWindowRun ? a.offsets[kWindowRun] - a.offsets[0] : 0;
    first = *last + image_row;
    plane = a.offsets[1] - a.offsets[0];
  }

  // What lies below the windows of kMr pixels, the first of them at x.
  template <int kStep, int kMr>
  __attribute__((always_inline)) void fetch(const float* x) const {
#pragma GCC unroll 3
    for (int64_t c = 0; c < (kStep == 1 ? kWindowChannels : 1); ++c) {
      const float* const row = x + first + c * plane;
#pragma GCC unroll 6
      for (int64_t i = 0; i < 2 * kMr * kStep; i += kLine) {
        prefetch_near(row + i);
        prefetch_near(row + image_row + i);
      }
    }
  }
};

// The same where one loop takes both layouts: displacements from x. A tile of up to six pixels lies
// above three lines of pixels, or one of each plane, in either row.
struct LinesBelow {
  int64_t at[6] = {};  // for what are no such windows: its own, which is near

  LinesBelow(const PointwiseArgs& a, int64_t x_stride) {
    const int64_t step = x_stride / 2;
    if ((x_stride != 2 && x_stride != 2 * kWindowChannels) || !in_window_rows(a, step)) return;
    const WindowRows rows(a);
#pragma GCC unroll 3
    for (int64_t i = 0; i < 3; ++i) {
      at[2 * i] = rows.first + i * (step == 1 ? rows.plane : kLine);
      at[2 * i + 1] = at[2 * i] + rows.image_row;
    }
  }
  void fetch(const float* x) const {
#pragma GCC unroll 6
    for (const int64_t displacement : at) prefetch_near(x + displacement);
  }
};
