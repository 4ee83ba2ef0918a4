// One lane, plain C++: the floor that runs everywhere, and the easiest tier to read.
#pragma once

#include <math.h>
#include <stdint.h>

constexpr int64_t kLanes = 1;
constexpr int64_t kRegisters = 16;

struct Vec {
  float v;
};

inline Vec zero() { return {0.0f}; }
inline Vec set1(float x) { return {x}; }
inline Vec load(const float* p) { return {*p}; }
inline void store(float* p, Vec a) { *p = a.v; }
inline Vec load_n(const float* p, int64_t n) { return {n > 0 ? *p : 0.0f}; }
inline void store_n(float* p, Vec a, int64_t n) {
  if (n > 0) *p = a.v;
}
inline Vec broadcast(const float* p) { return {*p}; }
// Product and sum, each rounded: without an FMA instruction fmaf is a slow library call.
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline void accumulate(Vec& acc, Vec a, Vec b) { acc = fma(a, b, acc); }
inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec min_of(Vec v, Vec bound) { return {bound.v < v.v ? bound.v : v.v}; }
inline Vec max_of(Vec v, Vec bound) { return {bound.v > v.v ? bound.v : v.v}; }
inline Vec max_nan(Vec a, Vec b) { return {a.v > b.v || a.v != a.v ? a.v : b.v}; }
inline Vec max_nan(Vec a, Vec b, Vec c) { return max_nan(max_nan(a, b), c); }
inline Vec where_positive(Vec a, Vec v) { return {a.v > 0.0f ? v.v : 0.0f}; }
inline Vec interleave_low(Vec a, Vec) { return a; }
inline Vec interleave_high(Vec, Vec b) { return b; }
inline void store_interleaved(float* p, Vec a, Vec b, Vec c) {
  p[0] = a.v;
  p[1] = b.v;
  p[2] = c.v;
}
inline Vec round_even(Vec a) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: the sum drops the fraction, rounding to even
  volatile float shifted = a.v + magic;
  return {shifted - magic};
}
inline Vec pow2(Vec a) {
  union {
    uint32_t i;
    float f;
  } bits;
  // NaN has no integer; what is returned for it is multiplied by NaN anyway.
  bits.i = a.v == a.v ? static_cast<uint32_t>(static_cast<int32_t>(a.v) + 127) << 23 : 0;
  return {bits.f};
}
constexpr bool kStreams = false;
inline void stream(float* p, Vec a) { store(p, a); }
inline void prefetch(const float* p) { __builtin_prefetch(p, 0, 2); }
