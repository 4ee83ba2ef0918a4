// Four lanes: AArch64 Advanced SIMD, the armv8-a baseline.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

constexpr int64_t kLanes = 4;
constexpr int64_t kRegisters = 32;

using Vec = float32x4_t;

inline Vec zero() { return vdupq_n_f32(0.0f); }
inline Vec set1(float x) { return vdupq_n_f32(x); }
inline Vec load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Vec a) { vst1q_f32(p, a); }
// Two vectors in a row by one instruction, from the one at `vectors`, a constant.
inline __attribute__((always_inline)) void load_pair(const float* p, int vectors, Vec& a, Vec& b) {
  __asm__("ldp %q0, %q1, [%2, %3]"
          : "=w"(a), "=w"(b)
          : "r"(p), "i"(vectors * 16),
            "m"(*reinterpret_cast<const Vec(*)[2]>(p + vectors * kLanes)));
}
inline __attribute__((always_inline)) void store_pair(float* p, int vectors, Vec a, Vec b) {
  __asm__("stp %q1, %q2, [%3, %4]"
          : "=m"(*reinterpret_cast<Vec(*)[2]>(p + vectors * kLanes))
          : "w"(a), "w"(b), "r"(p), "i"(vectors * 16));
}
inline Vec load_n(const float* p, int64_t n) {
  Vec a = vdupq_n_f32(0.0f);
  if (n >= 4) return vld1q_f32(p);
  if (n > 0) a = vld1q_lane_f32(p, a, 0);
  if (n > 1) a = vld1q_lane_f32(p + 1, a, 1);
  if (n > 2) a = vld1q_lane_f32(p + 2, a, 2);
  return a;
}
inline void store_n(float* p, Vec a, int64_t n) {
  if (n >= 4) {
    vst1q_f32(p, a);
    return;
  }
  if (n > 0) vst1q_lane_f32(p, a, 0);
  if (n > 1) vst1q_lane_f32(p + 1, a, 1);
  if (n > 2) vst1q_lane_f32(p + 2, a, 2);
}
inline Vec broadcast(const float* p) { return vld1q_dup_f32(p); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline void accumulate(Vec& acc, Vec a, Vec b) {
  __asm__("fmla %0.4s, %1.4s, %2.4s" : "+w"(acc) : "w"(a), "w"(b));
}
// v op b into v's register.
inline void add_in_place(Vec& v, Vec b) { __asm__("fadd %0.4s, %0.4s, %1.4s" : "+w"(v) : "w"(b)); }
inline void mul_in_place(Vec& v, Vec b) { __asm__("fmul %0.4s, %0.4s, %1.4s" : "+w"(v) : "w"(b)); }
inline void max_in_place(Vec& v, Vec b) { __asm__("fmax %0.4s, %0.4s, %1.4s" : "+w"(v) : "w"(b)); }
inline void min_in_place(Vec& v, Vec b) { __asm__("fmin %0.4s, %0.4s, %1.4s" : "+w"(v) : "w"(b)); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
// FMIN and FMAX return NaN when one operand is NaN; bounds never are.
inline Vec min_of(Vec v, Vec bound) { return vminq_f32(v, bound); }
inline Vec max_of(Vec v, Vec bound) { return vmaxq_f32(v, bound); }
inline Vec max_nan(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec max_nan(Vec a, Vec b, Vec c) { return max_nan(max_nan(a, b), c); }
inline Vec where_positive(Vec a, Vec v) {
  return vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(a), vreinterpretq_u32_f32(v)));
}
inline Vec interleave_low(Vec a, Vec b) { return vzip1q_f32(a, b); }
inline Vec interleave_high(Vec a, Vec b) { return vzip2q_f32(a, b); }
inline void store_interleaved(float* p, Vec a, Vec b, Vec c) { vst3q_f32(p, {{a, b, c}}); }
inline Vec round_even(Vec a) { return vrndnq_f32(a); }
inline Vec pow2(Vec a) {
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}
// The same as load and accumulate, in the order in which they are written: kernels/scheduled.inl.
// With `lane`, b is that lane of it.
#define WEEBILL_SCHEDULED
inline __attribute__((always_inline)) Vec load_now(const float* p) {
  Vec v;
  __asm__ volatile("ldr %q0, %1" : "=w"(v) : "m"(*reinterpret_cast<const Vec*>(p)));
  return v;
}
inline __attribute__((always_inline)) Vec load_now(const float* p, int64_t bytes) {
  Vec v;
  __asm__ volatile("ldr %q0, [%1, %2]"
                   : "=w"(v)
                   : "r"(p), "r"(bytes), "m"(*reinterpret_cast<const float (*)[1 << 20]>(p)));
  return v;
}
// Into the register of v, from p + `bytes`, added up by the load. The array is for the compiler:
// the instruction reads something there.
inline __attribute__((always_inline)) void reload_now(Vec& v, const float* p, int64_t bytes) {
  __asm__ volatile("ldr %q0, [%1, %2]"
                   : "+w"(v)
                   : "r"(p), "r"(bytes), "m"(*reinterpret_cast<const float (*)[1 << 20]>(p)));
}
// A load in three: lanes 0 and 1 of the vector at p (+ bytes), lanes 2 and 3, and both together.
inline __attribute__((always_inline)) Vec load_low_now(const float* p) {
  Vec v;
  __asm__ volatile("ldr %d0, %1" : "=w"(v) : "m"(*reinterpret_cast<const float32x2_t*>(p)));
  return v;
}
inline __attribute__((always_inline)) void reload_low_now(Vec& v, const float* p, int64_t bytes) {
  __asm__ volatile("ldr %d0, [%1, %2]"
                   : "+w"(v)
                   : "r"(p), "r"(bytes), "m"(*reinterpret_cast<const float (*)[1 << 20]>(p)));
}
inline __attribute__((always_inline)) uint64_t load_high_now(const float* p) {
  uint64_t high;
  __asm__ volatile("ldr %x0, %1" : "=r"(high) : "m"(*reinterpret_cast<const float32x2_t*>(p + 2)));
  return high;
}
inline __attribute__((always_inline)) uint64_t load_high_now(const float* p, int64_t bytes) {
  uint64_t high;
  __asm__ volatile("ldr %x0, [%1, %2]"
                   : "=r"(high)
                   : "r"(p), "r"(bytes + 8), "m"(*reinterpret_cast<const float (*)[1 << 20]>(p)));
  return high;
}
inline __attribute__((always_inline)) void join_now(Vec& low, uint64_t high) {
  __asm__ volatile("ins %0.d[1], %x1" : "+w"(low) : "r"(high));
}
inline __attribute__((always_inline)) void accumulate_now(Vec& acc, Vec a, Vec b) {
  __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(acc) : "w"(a), "w"(b));
}
inline __attribute__((always_inline)) void accumulate_now(Vec& acc, Vec a, Vec b, int lane) {
  __asm__ volatile("fmla %0.4s, %1.4s, %2.s[%3]" : "+w"(acc) : "w"(a), "w"(b), "i"(lane));
}
constexpr bool kStreams = false;
inline void stream(float* p, Vec a) { store(p, a); }
inline void prefetch(const float* p) { __builtin_prefetch(p, 0, 2); }
