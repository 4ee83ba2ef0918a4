// Channel shuffle of NHWC pixels: the channels of several tensors in turn.
//
// Two, four and eight groups are rounds of interleaving: one round of v[0], v[G/2], v[1], v[G/2+1]
// ... shuffles by two, log2(G) of them by G, where the instruction set has nothing better. The end
// of a pixel is done by vectors that reach back over channels done before, for masked stores are
// slow on many machines. Other numbers of groups move element by element, one load and one store
// each.

template <int kGroups>
inline void interleave(Vec (&v)[kGroups]) {
#pragma GCC unroll 3
  for (int round = 1; round < kGroups; round *= 2) {
    Vec next[kGroups];
#pragma GCC unroll 4
    for (int k = 0; k < kGroups / 2; ++k) {
      next[2 * k] = interleave_low(v[k], v[k + kGroups / 2]);
      next[2 * k + 1] = interleave_high(v[k], v[k + kGroups / 2]);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kGroups; ++k) v[k] = next[k];
  }
}

inline void shuffle_pixel(const ShuffleArgs& a, int64_t pixel, int64_t first) {
  Element* y = a.y + pixel * a.y_stride;
  for (int64_t j = 0; j < a.groups; ++j) {
    const Element* x = a.x[j] + pixel * a.x_stride[j];
    for (int64_t i = first; i * a.groups + j < a.channels; ++i) y[i * a.groups + j] = x[i];
  }
}

template <int kGroups>
inline void shuffle_vectors(const ShuffleArgs& args) {
  const ShuffleArgs a = args;  // a copy that the stores to y can't change stays in registers
  const int64_t whole = a.channels / kGroups;  // of every group
  const int64_t last = whole - kLanes;
  const bool rest = whole * kGroups < a.channels;
  const Element* x[kGroups];
  int64_t x_stride[kGroups];
#pragma GCC unroll 8
  for (int j = 0; j < kGroups; ++j) {
    x[j] = a.x[j];
    x_stride[j] = a.x_stride[j];
  }
  Element* y = a.y;
  for (int64_t p = 0; p < a.pixels; ++p) {
    auto vectors_at = [&](int64_t i) {
      Vec v[kGroups];
#pragma GCC unroll 8
      for (int j = 0; j < kGroups; ++j) v[j] = load(x[j] + i);
      if constexpr (kGroups == 3) {
        store_interleaved(y + i * kGroups, v[0], v[1], v[2]);
      } else {
        interleave(v);
#pragma GCC unroll 8
        for (int j = 0; j < kGroups; ++j) store(y + i * kGroups + j * kLanes, v[j]);
      }
    };
    for (int64_t i = 0; i < last; i += kLanes) vectors_at(i);
    vectors_at(last);
    if (rest) shuffle_pixel(a, p, whole);
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) x[j] += x_stride[j];
    y += a.y_stride;
  }
}

void WEEBILL_TYPED(channel_shuffle)(const ShuffleArgs& a) {
  const bool wide = a.channels / a.groups >= kLanes;
  if (wide && a.groups == 2) {
    shuffle_vectors<2>(a);
  } else if (wide && a.groups == 3) {
    shuffle_vectors<3>(a);
  } else if (wide && a.groups == 4) {
    shuffle_vectors<4>(a);
  } else if (wide && a.groups == 8) {
    shuffle_vectors<8>(a);
  } else {
    for (int64_t p = 0; p < a.pixels; ++p) shuffle_pixel(a, p, 0);
  }
}
