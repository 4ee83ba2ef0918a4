// Batch normalisation in training, with the activation that follows it.
//
// Every pass is bound by memory, so each reads pixels as they lie: a few pixels at a time, vector
// by vector of their channels, with what belongs to a channel loaded once for all of them. The
// gradient of the activation is computed from x again: reading a stored one would cost more.

constexpr int kPixelsAtOnce = 8;

template <int kPixels, typename Op>
inline void over_channels(const Op& op, int64_t p, int64_t channels) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) op.template run<kPixels, false>(p, c, kLanes);
  if (c < channels) op.template run<kPixels, true>(p, c, channels - c);
}

template <typename Op>
inline void over_pixels(const Op& op, int64_t pixels, int64_t channels) {
  int64_t p = 0;
  for (; p + kPixelsAtOnce <= pixels; p += kPixelsAtOnce) {
    over_channels<kPixelsAtOnce>(op, p, channels);
  }
  for (; p < pixels; ++p) over_channels<1>(op, p, channels);
}

struct Moments {
  const MomentsArgs& a;

  template <int kPixels, bool kTail>
  void run(int64_t p, int64_t c, int64_t lanes) const {
    const Vec shift = load_channels<kTail>(a.shift + c, lanes);
    Vec sum = load_channels<kTail>(a.sum + c, lanes);
    Vec square = load_channels<kTail>(a.square + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      const Vec d = sub(load_channels<kTail>(x + i * a.x_stride, lanes), shift);
      sum = add(sum, d);
      square = fma(d, d, square);
    }
    store_channels<kTail>(a.sum + c, sum, lanes);
    store_channels<kTail>(a.square + c, square, lanes);
  }
};

void moments_f32(const MomentsArgs& a) { over_pixels(Moments{a}, a.pixels, a.channels); }

/// A vector of channels: what turns x into the activation's argument.
template <bool kTail>
struct Affine {
  Vec mean, scale, shift;

  template <typename Args>
  Affine(const Args& a, int64_t c, int64_t lanes)
      : mean(load_channels<kTail>(a.mean + c, lanes)),
        scale(load_channels<kTail>(a.scale + c, lanes)),
        shift(load_channels<kTail>(a.shift + c, lanes)) {}
};

template <int32_t kActivation>
struct Normalize {
  const NormalizeArgs& a;

  template <int kPixels, bool kTail>
  void run(int64_t p, int64_t c, int64_t lanes) const {
    const Affine<kTail> affine(a, c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    float* y = a.y + p * a.y_stride + c;
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      const Vec d = sub(load_channels<kTail>(x + i * a.x_stride, lanes), affine.mean);
      const Vec u = fma(d, affine.scale, affine.shift);
      const Vec value = is_exponential(kActivation) ? activate_exponential(u, kActivation)
                                                    : activate_cheap(u, kActivation);
      store_channels<kTail>(y + i * a.y_stride, value, lanes);
    }
  }
};

template <int32_t kActivation>
struct NormalizeSums {
  const NormalizeSumsArgs& a;

  template <int kPixels, bool kTail>
  void run(int64_t p, int64_t c, int64_t lanes) const {
    const Affine<kTail> affine(a, c, lanes);
    Vec sum = load_channels<kTail>(a.sum + c, lanes);
    Vec dot = load_channels<kTail>(a.dot + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    const float* dy = a.dy + p * a.dy_stride + c;
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      const Vec d = sub(load_channels<kTail>(x + i * a.x_stride, lanes), affine.mean);
      const Vec g = activation_gradient<kActivation>(
          fma(d, affine.scale, affine.shift), load_channels<kTail>(dy + i * a.dy_stride, lanes));
      sum = add(sum, g);
      dot = fma(g, d, dot);
    }
    store_channels<kTail>(a.sum + c, sum, lanes);
    store_channels<kTail>(a.dot + c, dot, lanes);
  }
};

template <int32_t kActivation>
struct NormalizeGrad {
  const NormalizeGradArgs& a;

  template <int kPixels, bool kTail>
  void run(int64_t p, int64_t c, int64_t lanes) const {
    const Affine<kTail> affine(a, c, lanes);
    const Vec offset = load_channels<kTail>(a.offset + c, lanes);
    const Vec slope = load_channels<kTail>(a.slope + c, lanes);
    const float* x = a.x + p * a.x_stride + c;
    const float* dy = a.dy + p * a.dy_stride + c;
    float* dx = a.dx + p * a.dx_stride + c;
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      const Vec d = sub(load_channels<kTail>(x + i * a.x_stride, lanes), affine.mean);
      const Vec g = activation_gradient<kActivation>(
          fma(d, affine.scale, affine.shift), load_channels<kTail>(dy + i * a.dy_stride, lanes));
      const Vec statistics = fma(d, slope, offset);
      store_channels<kTail>(dx + i * a.dx_stride, sub(mul(affine.scale, g), statistics), lanes);
    }
  }
};

#define WEEBILL_ACTIVATION_CASE(Op, code)           \
  case code:                                        \
    over_pixels(Op<code>{a}, a.pixels, a.channels); \
    break;
#define WEEBILL_EVERY_ACTIVATION(Op)                   \
  switch (a.activation) {                              \
    WEEBILL_ACTIVATION_CASE(Op, kActNone)              \
    WEEBILL_ACTIVATION_CASE(Op, kActRelu)              \
    WEEBILL_ACTIVATION_CASE(Op, kActRelu6)             \
    WEEBILL_ACTIVATION_CASE(Op, kActHardswish)         \
    WEEBILL_ACTIVATION_CASE(Op, kActHardsigmoid)       \
    WEEBILL_ACTIVATION_CASE(Op, kActHardsigmoidPaddle) \
    WEEBILL_ACTIVATION_CASE(Op, kActSilu)              \
    WEEBILL_ACTIVATION_CASE(Op, kActSigmoid)           \
    default:                                           \
      break;                                           \
  }

void normalize_f32(const NormalizeArgs& a) { WEEBILL_EVERY_ACTIVATION(Normalize) }
void normalize_sums_f32(const NormalizeSumsArgs& a) { WEEBILL_EVERY_ACTIVATION(NormalizeSums) }
void normalize_backward_f32(const NormalizeGradArgs& a) { WEEBILL_EVERY_ACTIVATION(NormalizeGrad) }

#undef WEEBILL_EVERY_ACTIVATION
#undef WEEBILL_ACTIVATION_CASE
