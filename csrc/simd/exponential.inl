// The exponential function and the activations made of it, on a vector of float32.

// exp(x) to about 1 ulp: x = n ln2 + r, |r| <= ln2 / 2, polynomial of degree 6 in r (Cephes'
// coefficients, expf), scaled by 2^n in two steps so that overflow gives infinity and underflow
// denormals. NaN stays NaN.
inline Vec exp_of(Vec x) {
  x = max_of(min_of(x, set1(89.0f)), set1(-104.0f));
  const Vec n = round_even(mul(x, set1(1.44269504f)));
  Vec r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  const Vec half = round_even(mul(n, set1(0.5f)));
  return mul(mul(p, pow2(half)), pow2(sub(n, half)));
}

inline Vec activate_exponential(Vec x, int32_t activation) {
  const Vec denominator = add(set1(1.0f), exp_of(sub(zero(), x)));
  return div(activation == kActSilu ? x : set1(1.0f), denominator);
}
