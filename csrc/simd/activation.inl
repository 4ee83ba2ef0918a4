// Activations on a vector, written once for every instruction set. Same results as torch's for NaN,
// infinities and zeros of either sign.

inline Vec relu6(Vec x, Vec six) { return min_of(max_of(x, zero()), six); }
inline Vec hardswish(Vec x, Vec three, [[maybe_unused]] Vec six, Vec sixth) {
#if defined(WEEBILL_CLAMP)
  // The same bits by an instruction less: x is bounded first. NaN gets past the gate in x itself.
  const Vec gate = add(clamp(x, three), three);
#else
  const Vec gate = relu6(add(x, three), six);
#endif
  // Six times x overflows in float16 where x does not.
  if constexpr (sizeof(Element) == 2) return mul(x, mul(gate, sixth));
  return mul(mul(x, gate), sixth);
}

// The activations that cost one to five instructions; anything else is left as it is.
inline Vec activate_cheap(Vec x, int32_t activation) {
  switch (activation) {
    case kActRelu:
      return max_of(x, zero());
    case kActRelu6:
      return relu6(x, set1(6.0f));
    case kActHardswish:
      return hardswish(x, set1(3.0f), set1(6.0f), set1(1.0f / 6.0f));
    case kActHardsigmoid:
      return mul(relu6(add(x, set1(3.0f)), set1(6.0f)), set1(1.0f / 6.0f));
    case kActHardsigmoidPaddle:
      return min_of(max_of(fma(x, set1(0.2f), set1(0.5f)), zero()), set1(1.0f));
    default:
      return x;
  }
}

inline bool is_exponential(int32_t activation) { return activation >= kActSilu; }

/// grad * act'(x). Where the slope jumps it is the one that torch takes.
template <int32_t kActivation>
inline Vec activation_gradient(Vec x, Vec grad) {
  if constexpr (kActivation == kActRelu) return where_positive(x, grad);
  if constexpr (kActivation == kActRelu6) {
    return where_positive(x, where_positive(sub(set1(6.0f), x), grad));
  }
  if constexpr (kActivation == kActHardswish) {
    // x / 3 + 1/2 is -1/2 at -3 and 3/2 at 3, exactly: beyond, half of that is taken away.
    const Vec inside = min_of(max_of(x, set1(-3.0f)), set1(3.0f));
    Vec slope = fma(inside, set1(1.0f / 3.0f), set1(0.5f));
    slope = sub(slope, where_positive(sub(x, set1(3.0f)), set1(0.5f)));
    slope = add(slope, where_positive(sub(set1(-3.0f), x), set1(0.5f)));
    return mul(slope, grad);
  }
  if constexpr (kActivation == kActHardsigmoid) {
    const Vec scaled = mul(grad, set1(1.0f / 6.0f));
    return where_positive(add(x, set1(3.0f)), where_positive(sub(set1(3.0f), x), scaled));
  }
  if constexpr (kActivation == kActHardsigmoidPaddle) {
    const Vec y = fma(x, set1(0.2f), set1(0.5f));
    return where_positive(y, where_positive(sub(set1(1.0f), y), mul(grad, set1(0.2f))));
  }
  if constexpr (kActivation == kActSilu || kActivation == kActSigmoid) {
    const Vec one = set1(1.0f);
    const Vec y = activate_exponential(x, kActSigmoid);
    const Vec rest = sub(one, y);
    const Vec slope = kActivation == kActSilu ? mul(y, fma(x, rest, one)) : mul(y, rest);
    return mul(slope, grad);
  }
  return grad;
}

// In place on `count` vectors in memory. Out of line: inlined into every tile it would be most of
// the code, and its constants would push accumulators out of their registers.
__attribute__((noinline)) void activate_in_memory(Element* values, int64_t count,
                                                  int32_t activation) {
  for (int64_t i = 0; i < count; ++i) {
    store(values + i * kLanes, activate_exponential(load(values + i * kLanes), activation));
  }
}

// Applies the activation to an array of accumulators that lives in registers.
template <int kCount>
inline void activate_all(Vec (&acc)[kCount], int32_t activation) {
  switch (activation) {
    case kActNone:
      return;
#define WEEBILL_CASE(code)                                             \
  case code:                                                           \
    _Pragma("GCC unroll 32") for (int i = 0; i < kCount; ++i) acc[i] = \
        activate_cheap(acc[i], code);                                  \
    return;
      WEEBILL_CASE(kActRelu)
      WEEBILL_CASE(kActRelu6)
      WEEBILL_CASE(kActHardswish)
      WEEBILL_CASE(kActHardsigmoid)
      WEEBILL_CASE(kActHardsigmoidPaddle)
#undef WEEBILL_CASE
    default: {
      Element values[kCount * kLanes];
      _Pragma("GCC unroll 32") for (int i = 0; i < kCount; ++i) store(values + i * kLanes, acc[i]);
      activate_in_memory(values, kCount, activation);
      _Pragma("GCC unroll 32") for (int i = 0; i < kCount; ++i) acc[i] = load(values + i * kLanes);
    }
  }
}
