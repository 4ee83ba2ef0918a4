// The passes that touch every pixel once: sums, scales, change of layout. Memory bounds them all.

// Four vectors of channels at a time over all pixels: the sums stay in registers.
void WEEBILL_TYPED(sum)(const SumArgs& a) {
  constexpr int kVecs = 4;
  int64_t c = 0;
  for (; c + kVecs * kLanes <= a.channels; c += kVecs * kLanes) {
    Sum acc[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[j] = load_sum(a.sum + c + j * kLanes);
    for (int64_t p = 0; p < a.pixels; ++p) {
      const Element* x = a.x + p * a.x_stride + c;
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[j] = add_to(acc[j], load(x + j * kLanes));
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) store_sum(a.sum + c + j * kLanes, acc[j]);
  }
  for (; c < a.channels; c += kLanes) {
    const int64_t n = a.channels - c < kLanes ? a.channels - c : kLanes;
    Sum acc = load_sum_n(a.sum + c, n);
    for (int64_t p = 0; p < a.pixels; ++p) acc = add_to(acc, load_n(a.x + p * a.x_stride + c, n));
    store_sum_n(a.sum + c, acc, n);
  }
}

void WEEBILL_TYPED(scale)(const ScaleArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    const Element* x = a.x + p * a.x_stride;
    Element* y = a.y + p * a.y_stride;
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

// Tiles of 16 pixels: the lines written stay in the first cache while all planes go by.
void WEEBILL_TYPED(interleave)(const InterleaveArgs& a) {
  constexpr int64_t kPixels = 16;
  for (int64_t p = 0; p < a.pixels; p += kPixels) {
    const int64_t n = a.pixels - p < kPixels ? a.pixels - p : kPixels;
    for (int64_t c = 0; c < a.channels; ++c) {
      const Element* x = a.x + c * a.x_channel_stride + p;
      Element* y = a.y + p * a.channels + c;
      for (int64_t i = 0; i < n; ++i) y[i * a.channels] = x[i];
    }
  }
}

void WEEBILL_TYPED(activate)(const ActivateArgs& a) {
  for (int64_t p = 0; p < a.pixels; ++p) {
    Element* x = a.x + p * a.x_stride;
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
