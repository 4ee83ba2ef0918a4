// The passes that touch every pixel once: sums, scales, change of layout. Memory bounds them all.

// Four vectors of channels at a time over all pixels: the sums stay in registers.
void sum_f32(const SumArgs& a) {
  constexpr int kVecs = 4;
  int64_t c = 0;
  for (; c + kVecs * kLanes <= a.channels; c += kVecs * kLanes) {
    Vec acc[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[j] = load(a.sum + c + j * kLanes);
    for (int64_t p = 0; p < a.pixels; ++p) {
      const float* x = a.x + p * a.x_stride + c;
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[j] = add(acc[j], load(x + j * kLanes));
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) store(a.sum + c + j * kLanes, acc[j]);
  }
  for (; c < a.channels; c += kLanes) {
    const int64_t n = a.channels - c < kLanes ? a.channels - c : kLanes;
    Vec acc = load_n(a.sum + c, n);
    for (int64_t p = 0; p < a.pixels; ++p) acc = add(acc, load_n(a.x + p * a.x_stride + c, n));
    store_n(a.sum + c, acc, n);
  }
}

void scale_f32(const ScaleArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    const float* x = a.x + p * a.x_stride;
    float* y = a.y + p * a.y_stride;
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      store(y + c, mul(load(x + c), load(a.scale + c)));
    }
    if (c < a.channels) {
      const int64_t n = a.channels - c;
      store_n(y + c, mul(load_n(x + c, n), load_n(a.scale + c, n)), n);
    }
  }
}

void block_copy_f32(const BlockCopyArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    const float* x = a.x + p * a.x_stride;
    float* y = a.y + p * kBlock;
    int64_t c = 0;
    for (; c + kBlock <= a.channels; c += kBlock, y += a.y_block_stride) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kBlock; i += kLanes) store(y + i, load(x + c + i));
    }
    for (; c < a.channels; c += kLanes) {
      const int64_t n = a.channels - c < kLanes ? a.channels - c : kLanes;
      store_n(y + c % kBlock, load_n(x + c, n), n);
    }
  }
}

// Tiles of 16 pixels: the lines written stay in the first cache while all planes go by.
void interleave_f32(const InterleaveArgs& a) {
  constexpr int64_t kPixels = 16;
  for (int64_t p = 0; p < a.pixels; p += kPixels) {
    const int64_t n = a.pixels - p < kPixels ? a.pixels - p : kPixels;
    for (int64_t c = 0; c < a.channels; ++c) {
      const float* x = a.x + c * a.x_channel_stride + p;
      float* y = a.y + p * a.channels + c;
      for (int64_t i = 0; i < n; ++i) y[i * a.channels] = x[i];
    }
  }
}

void activate_f32(const ActivateArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    float* x = a.x + p * a.x_stride;
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      Vec v[1] = {load(x + c)};
      activate_all(v, a.activation);
      store(x + c, v[0]);
    }
    if (c < a.channels) {
      Vec v[1] = {load_n(x + c, a.channels - c)};
      activate_all(v, a.activation);
      store_n(x + c, v[0], a.channels - c);
    }
  }
}
