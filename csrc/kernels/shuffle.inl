// Channel shuffle of NHWC pixels: the channels of several tensors in turn.
//
// Two, four and eight groups are rounds of interleaving: one round of v[0], v[G/2], v[1], v[G/2+1]
// ... shuffles by two, log2(G) of them by G, where the instruction set has nothing better. The end
// of a pixel is done by vectors that reach back over channels done before, for masked stores are
// slow on many machines. Groups narrower than a vector are read in part, and all but the last of
// their results are whole vectors. Other numbers of groups move element by element, one load and
// one store each.

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

// v[0][0] v[1][0] ...
template <int kGroups>
inline void store_turns(Element* y, Vec (&v)[kGroups]) {
  if constexpr (kGroups == 3) {
    store_interleaved(y, v[0], v[1], v[2]);
#if defined(WEEBILL_STORE_PAIRS)
  } else if constexpr (kGroups == 2) {
    store_interleaved(y, v[0], v[1]);
#endif
  } else {
    interleave(v);
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) store(y + j * kLanes, v[j]);
  }
}

// Where the groups of a pixel begin.
template <int kGroups>
struct Walks {
  const Element* x[kGroups];
  int64_t stride[kGroups];

  explicit Walks(const ShuffleArgs& a) {
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) {
      x[j] = a.x[j];
      stride[j] = a.x_stride[j];
    }
  }
  void next() {
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) x[j] += stride[j];
  }
};

template <int kGroups>
inline void shuffle_vectors(const ShuffleArgs& args) {
  const ShuffleArgs a = args;  // a copy that the stores to y can't change stays in registers
  const int64_t whole = a.channels / kGroups;  // of every group
  const int64_t last = whole - kLanes;
  const bool rest = whole * kGroups < a.channels;
  Walks<kGroups> walks(a);
  Element* y = a.y;
  for (int64_t p = 0; p < a.pixels; ++p) {
    auto vectors_at = [&](int64_t i) {
      Vec v[kGroups];
#pragma GCC unroll 8
      for (int j = 0; j < kGroups; ++j) v[j] = load(walks.x[j] + i);
      store_turns(y + i * kGroups, v);
    };
    if constexpr (kLanes >= 8) {
      // One place calls it: of two, gcc takes one through the stack where vectors are long. The
      // bound is no part of what i is next: three cycles instead of one, as long as all the rest.
      for (int64_t i = 0;; i += kLanes) {
        vectors_at(i < last ? i : last);
        if (i >= last) break;
      }
    } else {
      for (int64_t i = 0; i < last; i += kLanes) vectors_at(i);
      vectors_at(last);
    }
    if (rest) shuffle_pixel(a, p, whole);
    walks.next();
    y += a.y_stride;
  }
}

// Groups of a channel at least and less than a vector.
template <int kGroups>
inline void shuffle_narrow(const ShuffleArgs& args) {
  const ShuffleArgs a = args;
  const int64_t whole = a.channels / kGroups;
  const int64_t dealt = whole * kGroups;
  const bool rest = dealt < a.channels;
  Walks<kGroups> walks(a);
  Element* y = a.y;
  for (int64_t p = 0; p < a.pixels; ++p) {
    Vec v[kGroups];
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) v[j] = load_n(walks.x[j], whole);
    interleave(v);
#pragma GCC unroll 8
    for (int j = 0; j < kGroups; ++j) {
      const int64_t left = dealt - j * kLanes;
      if (left >= kLanes) {
        store(y + j * kLanes, v[j]);
      } else {
        if (left > 0) store_n(y + j * kLanes, v[j], left);
        break;
      }
    }
    if (rest) shuffle_pixel(a, p, whole);
    walks.next();
    y += a.y_stride;
  }
}

template <int kGroups>
inline void shuffle_by(const ShuffleArgs& a) {
  const int64_t whole = a.channels / kGroups;
  if (whole >= kLanes) {
    shuffle_vectors<kGroups>(a);
  } else if (whole > 0) {
    shuffle_narrow<kGroups>(a);
  } else {
    for (int64_t p = 0; p < a.pixels; ++p) shuffle_pixel(a, p, 0);
  }
}

void WEEBILL_TYPED(channel_shuffle)(const ShuffleArgs& a) {
  switch (a.groups) {
    case 2:
      shuffle_by<2>(a);
      break;
    case 4:
      shuffle_by<4>(a);
      break;
    case 8:
      shuffle_by<8>(a);
      break;
    case 3:
      if (a.channels / 3 >= kLanes) {
        shuffle_vectors<3>(a);
        break;
      }
      [[fallthrough]];
    default:
      for (int64_t p = 0; p < a.pixels; ++p) shuffle_pixel(a, p, 0);
  }
}
