// Eight lanes of half precision: AArch64 Advanced SIMD with FEAT_FP16 (armv8.2-a+fp16, Linux's
// asimdhp).
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "simd/half.h"

#define WEEBILL_HALF

constexpr int64_t kLanes = 8;
constexpr int64_t kRegisters = 32;
constexpr bool kStreams = false;

namespace wide {
// clang-format off
#include "simd/neon.h"
#include "simd/exponential.inl"
// clang-format on
}  // namespace wide

using Element = Half;
inline Element to_element(float x) {
  const __fp16 rounded = static_cast<__fp16>(x);
  Half half;
  __builtin_memcpy(&half, &rounded, sizeof half);
  return half;
}

using Vec = float16x8_t;

inline const __fp16* native(const Half* p) { return reinterpret_cast<const __fp16*>(p); }
inline __fp16* native(Half* p) { return reinterpret_cast<__fp16*>(p); }

inline Vec zero() { return vreinterpretq_f16_u16(vdupq_n_u16(0)); }
inline Vec set1(float x) { return vdupq_n_f16(static_cast<__fp16>(x)); }
inline Vec load(const Half* p) { return vld1q_f16(native(p)); }
inline void store(Half* p, Vec a) { vst1q_f16(native(p), a); }
inline Vec load_n(const Half* p, int64_t n) {
  const __fp16* from = native(p);
  Vec a = zero();
  if (n >= 8) return vld1q_f16(from);
  if (n >= 4) {
    a = vcombine_f16(vld1_f16(from), vget_high_f16(a));
    if (n > 4) a = vld1q_lane_f16(from + 4, a, 4);
    if (n > 5) a = vld1q_lane_f16(from + 5, a, 5);
    if (n > 6) a = vld1q_lane_f16(from + 6, a, 6);
    return a;
  }
  if (n > 0) a = vld1q_lane_f16(from, a, 0);
  if (n > 1) a = vld1q_lane_f16(from + 1, a, 1);
  if (n > 2) a = vld1q_lane_f16(from + 2, a, 2);
  return a;
}
inline void store_n(Half* p, Vec a, int64_t n) {
  __fp16* to = native(p);
  if (n >= 8) {
    vst1q_f16(to, a);
    return;
  }
  if (n >= 4) {
    vst1_f16(to, vget_low_f16(a));
    if (n > 4) vst1q_lane_f16(to + 4, a, 4);
    if (n > 5) vst1q_lane_f16(to + 5, a, 5);
    if (n > 6) vst1q_lane_f16(to + 6, a, 6);
    return;
  }
  if (n > 0) vst1q_lane_f16(to, a, 0);
  if (n > 1) vst1q_lane_f16(to + 1, a, 1);
  if (n > 2) vst1q_lane_f16(to + 2, a, 2);
}
inline Vec broadcast(const Half* p) { return vld1q_dup_f16(native(p)); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f16(c, a, b); }
inline void accumulate(Vec& acc, Vec a, Vec b) {
  __asm__("fmla %0.8h, %1.8h, %2.8h" : "+w"(acc) : "w"(a), "w"(b));
}
inline Vec add(Vec a, Vec b) { return vaddq_f16(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f16(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f16(a, b); }
// FMIN and FMAX return NaN when one operand is NaN; bounds never are.
inline Vec min_of(Vec v, Vec bound) { return vminq_f16(v, bound); }
inline Vec max_of(Vec v, Vec bound) { return vmaxq_f16(v, bound); }
inline Vec max_nan(Vec a, Vec b) { return vmaxq_f16(a, b); }
inline Vec max_nan(Vec a, Vec b, Vec c) { return max_nan(max_nan(a, b), c); }
inline Vec where_positive(Vec a, Vec v) {
  return vreinterpretq_f16_u16(vandq_u16(vcgtzq_f16(a), vreinterpretq_u16_f16(v)));
}
inline Vec interleave_low(Vec a, Vec b) { return vzip1q_f16(a, b); }
inline Vec interleave_high(Vec a, Vec b) { return vzip2q_f16(a, b); }
inline void store_interleaved(Half* p, Vec a, Vec b, Vec c) { vst3q_f16(native(p), {{a, b, c}}); }
inline void prefetch(const Half* p) { __builtin_prefetch(p, 0, 2); }

struct Sum {
  float32x4_t low, high;
};
inline Sum load_sum(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline Sum load_sum_n(const float* p, int64_t n) {
  return {wide::load_n(p, n), n > 4 ? wide::load_n(p + 4, n - 4) : wide::zero()};
}
inline void store_sum(float* p, Sum s) {
  vst1q_f32(p, s.low);
  vst1q_f32(p + 4, s.high);
}
inline void store_sum_n(float* p, Sum s, int64_t n) {
  wide::store_n(p, s.low, n);
  if (n > 4) wide::store_n(p + 4, s.high, n - 4);
}
inline Sum add_to(Sum s, Vec v) {
  return {vaddq_f32(s.low, vcvt_f32_f16(vget_low_f16(v))), vaddq_f32(s.high, vcvt_high_f32_f16(v))};
}

inline Vec activate_exponential(Vec x, int32_t activation) {
  const float16x4_t low =
      vcvt_f16_f32(wide::activate_exponential(vcvt_f32_f16(vget_low_f16(x)), activation));
  return vcvt_high_f16_f32(low, wide::activate_exponential(vcvt_high_f32_f16(x), activation));
}

inline Vec load_narrowed(const float* p) {
  return vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(p)), vld1q_f32(p + 4));
}
inline void store_widened(float* p, Vec a) {
  vst1q_f32(p, vcvt_f32_f16(vget_low_f16(a)));
  vst1q_f32(p + 4, vcvt_high_f32_f16(a));
}

// As in neon.h. Lanes are taken from registers 0 to 15, the only ones that FMLA has room for.
#undef WEEBILL_SCHEDULED
#define WEEBILL_SCHEDULED
using Bytes = const char[16];          // what a load reads, and
using AllBytes = const char[1 << 21];  // what one with an offset may
inline __attribute__((always_inline)) Vec load_now(const Half* p) {
  Vec v;
  __asm__ volatile("ldr %q0, %1" : "=w"(v) : "m"(*reinterpret_cast<Bytes*>(p)));
  return v;
}
inline __attribute__((always_inline)) Vec load_now(const Half* p, int64_t bytes) {
  Vec v;
  __asm__ volatile("ldr %q0, [%1, %2]"
                   : "=w"(v)
                   : "r"(p), "r"(bytes), "m"(*reinterpret_cast<AllBytes*>(p)));
  return v;
}
inline __attribute__((always_inline)) void reload_now(Vec& v, const Half* p, int64_t bytes) {
  __asm__ volatile("ldr %q0, [%1, %2]"
                   : "+x"(v)
                   : "r"(p), "r"(bytes), "m"(*reinterpret_cast<AllBytes*>(p)));
}
inline __attribute__((always_inline)) void accumulate_now(Vec& acc, Vec a, Vec b) {
  __asm__ volatile("fmla %0.8h, %1.8h, %2.8h" : "+w"(acc) : "w"(a), "w"(b));
}
inline __attribute__((always_inline)) void accumulate_now(Vec& acc, Vec a, Vec b, int lane) {
  __asm__ volatile("fmla %0.8h, %1.8h, %2.h[%3]" : "+w"(acc) : "w"(a), "x"(b), "i"(lane));
}
