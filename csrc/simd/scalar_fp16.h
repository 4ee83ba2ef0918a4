// One lane of half precision in plain C++: every operation is rounded as a processor with float16
// arithmetic rounds it, and gives the same bits. Slow: for tests, and to know on any machine what
// such a processor computes.
#pragma once

#include <math.h>
#include <stdint.h>

#include "simd/half.h"

#define WEEBILL_HALF

constexpr int64_t kLanes = 1;
constexpr int64_t kRegisters = 16;
constexpr bool kStreams = false;

namespace wide {
// clang-format off
#include "simd/scalar.h"
#include "simd/exponential.inl"
// clang-format on
}  // namespace wide

using Element = Half;
inline Element to_element(float x) { return to_half(x); }

struct Vec {
  float v;  // one that Half can hold
};

// Sums, products and quotients in float32 have more than twice the digits: rounding once more gives
// what rounding once would.
inline Vec rounded(float x) { return {to_float(to_half(x))}; }

inline Vec zero() { return {0.0f}; }
inline Vec set1(float x) { return rounded(x); }
inline Vec load(const Half* p) { return {to_float(*p)}; }
inline void store(Half* p, Vec a) { *p = to_half(a.v); }
inline Vec load_n(const Half* p, int64_t n) { return {n > 0 ? to_float(*p) : 0.0f}; }
inline void store_n(Half* p, Vec a, int64_t n) {
  if (n > 0) *p = to_half(a.v);
}
inline Vec broadcast(const Half* p) { return {to_float(*p)}; }
// The product is exact in double. Where the sum is not, it and then its float32 are made odd, so
// that neither rounding can turn the last one.
inline Vec fma(Vec a, Vec b, Vec c) {
  const double product = static_cast<double>(a.v) * b.v;
  double sum = product + c.v;
  const double added = sum - product;
  const double lost = (product - (sum - added)) + (c.v - added);
  if (lost > 0 || lost < 0) {
    uint64_t bits;
    __builtin_memcpy(&bits, &sum, sizeof bits);
    if (bits % 2 == 0) bits += (lost > 0) == (sum > 0) ? 1 : -1;
    __builtin_memcpy(&sum, &bits, sizeof bits);
  }
  float narrow = static_cast<float>(sum);
  if (static_cast<double>(narrow) != sum && sum == sum) {
    uint32_t bits;
    __builtin_memcpy(&bits, &narrow, sizeof bits);
    if (bits % 2 == 0) bits += (sum > narrow) == (sum > 0) ? 1 : -1;
    __builtin_memcpy(&narrow, &bits, sizeof bits);
  }
  return rounded(narrow);
}
inline void accumulate(Vec& acc, Vec a, Vec b) { acc = fma(a, b, acc); }
inline Vec add(Vec a, Vec b) { return rounded(a.v + b.v); }
inline Vec sub(Vec a, Vec b) { return rounded(a.v - b.v); }
inline Vec mul(Vec a, Vec b) { return rounded(a.v * b.v); }
inline Vec min_of(Vec v, Vec bound) { return {bound.v < v.v ? bound.v : v.v}; }
inline Vec max_of(Vec v, Vec bound) { return {bound.v > v.v ? bound.v : v.v}; }
inline Vec max_nan(Vec a, Vec b) { return {a.v > b.v || a.v != a.v ? a.v : b.v}; }
inline Vec max_nan(Vec a, Vec b, Vec c) { return max_nan(max_nan(a, b), c); }
inline Vec where_positive(Vec a, Vec v) { return {a.v > 0.0f ? v.v : 0.0f}; }
inline Vec interleave_low(Vec a, Vec) { return a; }
inline Vec interleave_high(Vec, Vec b) { return b; }
inline void store_interleaved(Half* p, Vec a, Vec b, Vec c) {
  store(p, a);
  store(p + 1, b);
  store(p + 2, c);
}
inline void prefetch(const Half* p) { __builtin_prefetch(p, 0, 2); }

using Sum = wide::Vec;
inline Sum load_sum(const float* p) { return wide::load(p); }
inline Sum load_sum_n(const float* p, int64_t n) { return wide::load_n(p, n); }
inline void store_sum(float* p, Sum s) { wide::store(p, s); }
inline void store_sum_n(float* p, Sum s, int64_t n) { wide::store_n(p, s, n); }
inline Sum add_to(Sum s, Vec v) { return {s.v + v.v}; }

inline Vec activate_exponential(Vec x, int32_t activation) {
  return rounded(wide::activate_exponential({x.v}, activation).v);
}

inline Vec load_narrowed(const float* p) { return rounded(*p); }
inline void store_widened(float* p, Vec a) { *p = a.v; }
