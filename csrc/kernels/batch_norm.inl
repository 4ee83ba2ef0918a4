// Batch normalisation in training, with the activation that follows it.
//
// Each reads pixels as they lie, a few at a time: a run of vectors of their channels, with what
// belongs to a channel, constants and sums, in registers over all of these pixels. With many
// registers a run is several vectors and eight pixels: sums that go through memory every other
// pixel are a chain of stores and loads, 2 to 4 times as slow where the pixels are in the cache.
// With few of them it is one or two vectors of two pixels (four where vectors are short), unrolled:
// longer runs, whose constants do not all fit, took 11 to 42 % more instructions. Where a pixel is
// no longer than the run, all pixels are done at once. Otherwise pixels are as many streams of
// lines, which not every processor foresees: with 8 lanes eight took 1.2 to 1.8 times as long as
// two on a Zen 3. The lines 4 kB ahead are asked for. The gradient of the activation is computed
// from x again: reading a stored one would cost more.

constexpr bool kManyRegisters = kRegisters >= 32;
/// Of a run; and 0 if that is only known when it is called.
constexpr int64_t kPixelsAtOnce = kLanes >= 16 ? 8 : kLanes >= 8 ? 2 : 4;
constexpr int kFixedPixels = kManyRegisters ? 0 : static_cast<int>(kPixelsAtOnce);

/// body() for each pixel of a run.
template <int kPixels, typename Body>
inline void for_pixels(int64_t pixels, const Body& body) {
  if constexpr (kPixels > 0) {
#pragma GCC unroll 4
    for (int i = 0; i < kPixels; ++i) body();
  } else {
    for (int64_t i = 0; i < pixels; ++i) body();
  }
}

/// The lines that follow kVecs vectors of so many pixels, once for each block of channels.
template <int kPixels, int kVecs>
inline void fetch_ahead(const float* x, int64_t stride, int64_t c) {
  constexpr int64_t kAhead = 1024;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    if ((c + j * kLanes) % kBlock != 0) continue;
#pragma GCC unroll 4
    for (int i = 0; i < kPixels; ++i) prefetch(x + i * stride + j * kLanes + kAhead);
  }
}

/// Of the vectors' channels from c on.
template <int kVecs, bool kTail>
inline void load_all(Vec (&values)[kVecs], const float* p, int64_t lanes) {
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) values[j] = load_channels<kTail>(p + j * kLanes, lanes);
}

template <int kVecs, bool kTail>
inline void store_all(float* p, const Vec (&values)[kVecs], int64_t lanes) {
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) store_channels<kTail>(p + j * kLanes, values[j], lanes);
}

/// Where channel c of a pixel is whose blocks of channels are `block_stride` apart.
inline int64_t in_blocks(int64_t c, int64_t block_stride) {
  return c + static_cast<int64_t>(static_cast<uint64_t>(c) / kBlock) * (block_stride - kBlock);
}

template <int kPixels, typename Op>
inline void over_channels(const Op& op, int64_t p, int64_t pixels, int64_t channels) {
  int64_t c = 0;
  if constexpr (Op::kVecs > 1) {
    for (; c + Op::kVecs * kLanes <= channels; c += Op::kVecs * kLanes) {
      op.template run<kPixels, Op::kVecs, false>(p, pixels, c, kLanes);
    }
  }
  for (; c + kLanes <= channels; c += kLanes) {
    op.template run<kPixels, 1, false>(p, pixels, c, kLanes);
  }
  if (c < channels) op.template run<kPixels, 1, true>(p, pixels, c, channels - c);
}

template <typename Op>
inline void over_pixels(const Op& op, int64_t pixels, int64_t channels) {
  const bool whole = channels <= kLanes || channels == Op::kVecs * kLanes;
  int64_t p = 0;
  if constexpr (kFixedPixels > 0) {
    for (; !whole && p + kFixedPixels <= pixels; p += kFixedPixels) {
      over_channels<kFixedPixels>(op, p, kFixedPixels, channels);
    }
  }
  const int64_t at_once = whole || kFixedPixels > 0 ? pixels : kPixelsAtOnce;
  for (; p < pixels; p += at_once) {
    over_channels<0>(op, p, pixels - p < at_once ? pixels - p : at_once, channels);
  }
}

struct Moments {
  static constexpr int kVecs = kManyRegisters ? 4 : 2;
  const MomentsArgs& a;

  template <int kPixels, int kRun, bool kTail>
  void run(int64_t p, int64_t pixels, int64_t c, int64_t lanes) const {
    Vec shift[kRun], sum[kRun], square[kRun];
    load_all<kRun, kTail>(shift, a.shift + c, lanes);
    load_all<kRun, kTail>(sum, a.sum + c, lanes);
    load_all<kRun, kTail>(square, a.square + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    fetch_ahead<kPixels, kRun>(x, a.x_stride, c);
    for_pixels<kPixels>(pixels, [&] {
      if constexpr (kPixels == 0) fetch_ahead<1, kRun>(x, a.x_stride, c);
#pragma GCC unroll 4
      for (int j = 0; j < kRun; ++j) {
        const Vec d = sub(load_channels<kTail>(x + j * kLanes, lanes), shift[j]);
        sum[j] = add(sum[j], d);
        square[j] = fma(d, d, square[j]);
      }
      x += a.x_stride;
    });
    store_all<kRun, kTail>(a.sum + c, sum, lanes);
    store_all<kRun, kTail>(a.square + c, square, lanes);
  }
};

void moments_f32(const MomentsArgs& a) { over_pixels(Moments{a}, a.pixels, a.channels); }

/// Vectors of channels: what turns x into the activation's argument.
template <int kRun, bool kTail>
struct Affine {
  Vec mean[kRun], scale[kRun], shift[kRun];

  template <typename Args>
  Affine(const Args& a, int64_t c, int64_t lanes) {
    load_all<kRun, kTail>(mean, a.mean + c, lanes);
    load_all<kRun, kTail>(scale, a.scale + c, lanes);
    load_all<kRun, kTail>(shift, a.shift + c, lanes);
  }
};

template <int32_t kActivation, bool kStream>
struct Normalize {
  static constexpr int kVecs = kManyRegisters ? 4 : 2;
  const NormalizeArgs& a;

  template <int kPixels, int kRun, bool kTail>
  void run(int64_t p, int64_t pixels, int64_t c, int64_t lanes) const {
    const Affine<kRun, kTail> affine(a, c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    float* y = a.y + p * a.y_stride + in_blocks(c, a.y_block_stride);
    fetch_ahead<kPixels, kRun>(x, a.x_stride, c);
    for_pixels<kPixels>(pixels, [&] {
      if constexpr (kPixels == 0) fetch_ahead<1, kRun>(x, a.x_stride, c);
#pragma GCC unroll 4
      for (int j = 0; j < kRun; ++j) {
        const Vec d = sub(load_channels<kTail>(x + j * kLanes, lanes), affine.mean[j]);
        const Vec u = fma(d, affine.scale[j], affine.shift[j]);
        const Vec value = is_exponential(kActivation) ? activate_exponential(u, kActivation)
                                                      : activate_cheap(u, kActivation);
        put_channels<kStream, kTail>(y + in_blocks(j * kLanes, a.y_block_stride), value, lanes);
      }
      x += a.x_stride;
      y += a.y_stride;
    });
  }
};

template <int32_t kActivation>
struct NormalizeSums {
  static constexpr int kVecs = kManyRegisters ? 4 : 1;
  const NormalizeSumsArgs& a;

  template <int kPixels, int kRun, bool kTail>
  void run(int64_t p, int64_t pixels, int64_t c, int64_t lanes) const {
    const Affine<kRun, kTail> affine(a, c, lanes);
    Vec sum[kRun], dot[kRun];
    load_all<kRun, kTail>(sum, a.sum + c, lanes);
    load_all<kRun, kTail>(dot, a.dot + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    const float* dy = a.dy + p * a.dy_stride + c;
    fetch_ahead<kPixels, kRun>(x, a.x_stride, c);
    fetch_ahead<kPixels, kRun>(dy, a.dy_stride, c);
    for_pixels<kPixels>(pixels, [&] {
      if constexpr (kPixels == 0) {
        fetch_ahead<1, kRun>(x, a.x_stride, c);
        fetch_ahead<1, kRun>(dy, a.dy_stride, c);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kRun; ++j) {
        const Vec d = sub(load_channels<kTail>(x + j * kLanes, lanes), affine.mean[j]);
        const Vec g = activation_gradient<kActivation>(
            fma(d, affine.scale[j], affine.shift[j]), load_channels<kTail>(dy + j * kLanes, lanes));
        sum[j] = add(sum[j], g);
        dot[j] = fma(g, d, dot[j]);
      }
      x += a.x_stride;
      dy += a.dy_stride;
    });
    store_all<kRun, kTail>(a.sum + c, sum, lanes);
    store_all<kRun, kTail>(a.dot + c, dot, lanes);
  }
};

template <int32_t kActivation, bool kStream>
struct NormalizeGrad {
  static constexpr int kVecs = kManyRegisters ? 2 : 1;
  const NormalizeGradArgs& a;

  template <int kPixels, int kRun, bool kTail>
  void run(int64_t p, int64_t pixels, int64_t c, int64_t lanes) const {
    const Affine<kRun, kTail> affine(a, c, lanes);
    Vec offset[kRun], slope[kRun];
    load_all<kRun, kTail>(offset, a.offset + c, lanes);
    load_all<kRun, kTail>(slope, a.slope + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    const float* dy = a.dy + p * a.dy_stride + c;
    float* dx = a.dx + p * a.dx_stride + in_blocks(c, a.dx_block_stride);
    fetch_ahead<kPixels, kRun>(x, a.x_stride, c);
    fetch_ahead<kPixels, kRun>(dy, a.dy_stride, c);
    for_pixels<kPixels>(pixels, [&] {
      if constexpr (kPixels == 0) {
        fetch_ahead<1, kRun>(x, a.x_stride, c);
        fetch_ahead<1, kRun>(dy, a.dy_stride, c);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kRun; ++j) {
        const Vec d = sub(load_channels<kTail>(x + j * kLanes, lanes), affine.mean[j]);
        const Vec g = activation_gradient<kActivation>(
            fma(d, affine.scale[j], affine.shift[j]), load_channels<kTail>(dy + j * kLanes, lanes));
        const Vec statistics = fma(d, slope[j], offset[j]);
        put_channels<kStream, kTail>(dx + in_blocks(j * kLanes, a.dx_block_stride),
                                     sub(mul(affine.scale[j], g), statistics), lanes);
      }
      x += a.x_stride;
      dy += a.dy_stride;
      dx += a.dx_stride;
    });
  }
};

template <int32_t kValue>
struct Code {
  static constexpr int32_t value = kValue;
};

/// body(Code<activation>): one loop for each activation.
template <typename Body>
inline void for_activation(int32_t activation, const Body& body) {
  switch (activation) {
#define WEEBILL_CASE(code) \
  case code:               \
    body(Code<code>{});    \
    break;
    WEEBILL_CASE(kActNone)
    WEEBILL_CASE(kActRelu)
    WEEBILL_CASE(kActRelu6)
    WEEBILL_CASE(kActHardswish)
    WEEBILL_CASE(kActHardsigmoid)
    WEEBILL_CASE(kActHardsigmoidPaddle)
    WEEBILL_CASE(kActSilu)
    WEEBILL_CASE(kActSigmoid)
#undef WEEBILL_CASE
    default:
      break;
  }
}

void normalize_f32(const NormalizeArgs& a) {
  const bool streams = a.stream && can_stream(a.y, a.y_stride);
  for_activation(a.activation, [&](auto code) {
    if (streams) {
      over_pixels(Normalize<code.value, true>{a}, a.pixels, a.channels);
    } else {
      over_pixels(Normalize<code.value, false>{a}, a.pixels, a.channels);
    }
  });
}

void normalize_sums_f32(const NormalizeSumsArgs& a) {
  for_activation(a.activation, [&](auto code) {
    over_pixels(NormalizeSums<code.value>{a}, a.pixels, a.channels);
  });
}

void normalize_backward_f32(const NormalizeGradArgs& a) {
  const bool streams = a.stream && can_stream(a.dx, a.dx_stride);
  for_activation(a.activation, [&](auto code) {
    if (streams) {
      over_pixels(NormalizeGrad<code.value, true>{a}, a.pixels, a.channels);
    } else {
      over_pixels(NormalizeGrad<code.value, false>{a}, a.pixels, a.channels);
    }
  });
}
