// Sixteen lanes: AVX-512 F, BW, DQ, VL. Tails by masks.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "simd/strided.h"

constexpr int64_t kLanes = 16;
constexpr int64_t kRegisters = 32;

using Vec = __m512;

inline __mmask16 mask_of(int64_t n) {
  return static_cast<__mmask16>((static_cast<uint32_t>(1) << n) - 1);
}

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(mask_of(n), p); }
#define WEEBILL_LOW_LANES
inline Vec load_low(const float* p) { return _mm512_zextps256_ps512(_mm256_loadu_ps(p)); }
inline void store_low(float* p, Vec a) { _mm256_storeu_ps(p, _mm512_castps512_ps256(a)); }
// Eight lanes, the usual tail, without a mask: on Zen 4 a load from the 64 bytes at p, those past
// the mask too, waits for a masked store, and an activation of 72 channels took 19 % longer than
// with AVX2 (multiplications alone, pixel by pixel in place, four times as long as this).
inline void store_n(float* p, Vec a, int64_t n) {
  if (n == 8) {
    store_low(p, a);
  } else {
    _mm512_mask_storeu_ps(p, mask_of(n), a);
  }
}
inline Vec broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
#if defined(__AVX512F__)
// An FMA that keeps its accumulator where it is. Left to itself gcc turns the accumulators of an
// unrolled tile round between registers and spills some of them.
inline void accumulate(Vec& acc, Vec a, Vec b) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "vm"(b));
}
#else
inline void accumulate(Vec& acc, Vec a, Vec b) { acc = fma(a, b, acc); }
#endif
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
// VMINPS and VMAXPS return the second operand when one is NaN: v goes second.
inline Vec min_of(Vec v, Vec bound) { return _mm512_min_ps(bound, v); }
inline Vec max_of(Vec v, Vec bound) { return _mm512_max_ps(bound, v); }
#define WEEBILL_CLAMP
#if defined(__AVX512F__)
inline Vec clamp(Vec v, Vec bound) {
  constexpr int kSmallerMagnitude = 2;  // and the sign of v
  return _mm512_range_ps(v, bound, kSmallerMagnitude);
}
#else
inline Vec clamp(Vec v, Vec bound) { return max_of(min_of(v, bound), sub(zero(), bound)); }
#endif
inline Vec max_nan(Vec a, Vec b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}
// The chain of maxima keeps a NaN of c only; all ones are a NaN as well.
inline Vec max_nan(Vec a, Vec b, Vec c) {
  return _mm512_mask_mov_ps(_mm512_max_ps(_mm512_max_ps(a, b), c),
                            _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q),
                            _mm512_castsi512_ps(_mm512_set1_epi32(-1)));
}
inline Vec where_positive(Vec a, Vec v) {
#if defined(__AVX512F__)
  // v is in a register before the comparison: a load under the mask would wait for it, and memory
  // that comes from beyond the caches arrives at less than half of its rate.
  __asm__("" : "+v"(v));
#endif
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ), v);
}
inline Vec round_even(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec pow2(Vec a) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
constexpr bool kStreams = true;
#define WEEBILL_WHOLE_LINES  // a vector is a line of the caches
inline void stream(float* p, Vec a) { _mm512_stream_ps(p, a); }
// always_inline: gcc 12 drops calls of a function that does nothing but prefetch.
inline __attribute__((always_inline)) void prefetch(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}
// To the first cache.
inline __attribute__((always_inline)) void prefetch_near(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}

// Permutations of one and of two vectors; lane i of the result is lane kOf[i] of both. The lanes'
// numbers are read where they are wanted: gcc would keep them in the registers of accumulators.
using Lanes = __m512i;
inline Lanes load_lanes_now(const int32_t (&of)[16]) {
#if defined(__AVX512F__)
  Lanes lanes;
  __asm__ volatile("vmovdqu32 %1, %0" : "=v"(lanes) : "m"(of));
  return lanes;
#else
  return _mm512_loadu_si512(of);
#endif
}
inline Vec permuted(Vec a, Vec b, Lanes lanes) { return _mm512_permutex2var_ps(a, lanes, b); }
// a[0] b[0] a[1] b[1] ..., the first half of that and the second.
constexpr int32_t kLowPairs[] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
constexpr int32_t kHighPairs[] = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
// Undone, where a has the pairs of the even lanes and b those of the odd ones; and of a alone.
constexpr int32_t kFirstOfPairs[] = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
constexpr int32_t kSecondOfPairs[] = {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31};
constexpr int32_t kFirstThenSecond[] = {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
inline Vec low_pairs(Vec a, Vec b) { return permuted(a, b, load_lanes_now(kLowPairs)); }

// What the loops of kernels/strided_tiles.inl and kernels/depthwise_tiles.inl are made of, in the
// order written. kOffset counts floats behind what is named; "half" is lanes 0 to 7, "high" 8 to 15
// as a half; what the others become is not said. A half is an instruction on 256 bits: processors
// that cut those of 512 in two, Zen 4, do one half.
#define WEEBILL_STRIDED_TILES
#if defined(__AVX512F__)
inline Vec low_and_low(Vec a, Vec b) { return _mm512_shuffle_f32x4(a, b, 0x44); }
inline Vec high(Vec a) { return _mm512_shuffle_f32x4(a, a, 0xee); }
inline Vec high_and_low(Vec a, Vec b) {
  return _mm512_castsi512_ps(
      _mm512_alignr_epi64(_mm512_castps_si512(b), _mm512_castps_si512(a), 4));
}
inline void accumulate_now(Vec& acc, Vec a, Vec b) {
  __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}
inline void accumulate_half_now(Vec& acc, Vec a, Vec b) {
  __asm__ volatile("vfmadd231ps %t2, %t1, %t0" : "+v"(acc) : "v"(a), "v"(b));
}
template <int kOffset>
inline Vec load_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovups %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
template <int kOffset>
inline Vec load_half_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovups %c2(%1), %t0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
template <int kOffset>
inline Vec broadcast_now(const float* p) {
  Vec v;
  __asm__ volatile("vbroadcastss %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
template <int kOffset>
inline void accumulate_now(Vec& acc, const float* p, Vec b) {
  __asm__ volatile("vfmadd231ps %c2(%1)%{1to16%}, %3, %0"
                   : "+v"(acc)
                   : "r"(p), "i"(4 * kOffset), "v"(b));
}
template <int kIndex, int kOffset>
inline Vec load_at(const Strided& x) {
  using Index = StridedIndex<kIndex>;
  Vec v;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vmovups %c2(%1), %0" : "=v"(v) : "r"(Index::base(x)), "i"(4 * kOffset));
  } else {
    __asm__ volatile("vmovups %c4(%1,%2,%c3), %0"
                     : "=v"(v)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale),
                       "i"(4 * kOffset));
  }
  return v;
}
template <int kIndex>
inline Vec load_half_at(const Strided& x) {
  using Index = StridedIndex<kIndex>;
  Vec v;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vmovups (%1), %t0" : "=v"(v) : "r"(Index::base(x)));
  } else {
    __asm__ volatile("vmovups (%1,%2,%c3), %t0"
                     : "=v"(v)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale));
  }
  return v;
}
// Vector kIndex's half as lanes 8 to 15 of v.
template <int kIndex>
inline void insert_high_at(Vec& v, const Strided& x) {
  using Index = StridedIndex<kIndex>;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vinsertf64x4 $1, (%1), %0, %0" : "+v"(v) : "r"(Index::base(x)));
  } else {
    __asm__ volatile("vinsertf64x4 $1, (%1,%2,%c3), %0, %0"
                     : "+v"(v)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale));
  }
}
template <int kIndex, int kOffset>
inline Vec broadcast_now(const Strided& x) {
  using Index = StridedIndex<kIndex>;
  Vec v;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vbroadcastss %c2(%1), %0" : "=v"(v) : "r"(Index::base(x)), "i"(4 * kOffset));
  } else {
    __asm__ volatile("vbroadcastss %c4(%1,%2,%c3), %0"
                     : "=v"(v)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale),
                       "i"(4 * kOffset));
  }
  return v;
}
// acc += *pixel kIndex * b, the broadcast in the FMA.
template <int kIndex, int kOffset>
inline void accumulate_now(Vec& acc, const Strided& x, Vec b) {
  using Index = StridedIndex<kIndex>;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vfmadd231ps %c2(%1)%{1to16%}, %3, %0"
                     : "+v"(acc)
                     : "r"(Index::base(x)), "i"(4 * kOffset), "v"(b));
  } else {
    __asm__ volatile("vfmadd231ps %c4(%1,%2,%c3)%{1to16%}, %5, %0"
                     : "+v"(acc)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale),
                       "i"(4 * kOffset), "v"(b));
  }
}
template <int kIndex, int kOffset>
inline void accumulate_half_now(Vec& acc, const Strided& x, Vec b) {
  using Index = StridedIndex<kIndex>;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vfmadd231ps %c2(%1)%{1to8%}, %t3, %t0"
                     : "+v"(acc)
                     : "r"(Index::base(x)), "i"(4 * kOffset), "v"(b));
  } else {
    __asm__ volatile("vfmadd231ps %c4(%1,%2,%c3)%{1to8%}, %t5, %t0"
                     : "+v"(acc)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale),
                       "i"(4 * kOffset), "v"(b));
  }
}
template <int kOffset>
inline Vec load_twice_now(const float* p) {
  Vec v;
  __asm__ volatile("vbroadcastf64x4 %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
inline Vec low_and_high_now(Vec a, Vec b) {
  Vec v;
  __asm__ volatile("vblendmps %2, %1, %0%{%3%}"
                   : "=v"(v)
                   : "v"(a), "v"(b), "Yk"(static_cast<__mmask16>(0xff00)));
  return v;
}
// Each lane of p's even, of its odd numbers, in two lanes; two numbers, in all pairs of lanes.
template <int kOffset>
inline Vec load_even_twice_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovsldup %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
template <int kOffset>
inline Vec load_odd_twice_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovshdup %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
template <int kOffset>
inline Vec broadcast_two_now(const float* p) {
  Vec v;
  __asm__ volatile("vbroadcastsd %c2(%1), %0" : "=v"(v) : "r"(p), "i"(4 * kOffset));
  return v;
}
inline void store_now(float* p, Vec v) {
  __asm__ volatile("vmovups %1, %0" : "=m"(*reinterpret_cast<__m512_u*>(p)) : "v"(v));
}
inline void store_low_now(float* p, Vec v) {
  __asm__ volatile("vmovups %t1, %0" : "=m"(*reinterpret_cast<__m256_u*>(p)) : "v"(v));
}
// At p + multiple * kScale, the multiple in bytes.
template <int kScale>
inline void store_now(float* p, int64_t multiple, Vec v) {
  if constexpr (kScale == 0) {
    store_now(p, v);
  } else {
    __asm__ volatile("vmovups %0, (%1,%2,%c3)"
                     :
                     : "v"(v), "r"(p), "r"(multiple), "i"(kScale)
                     : "memory");
  }
}
template <int kScale>
inline void store_low_now(float* p, int64_t multiple, Vec v) {
  if constexpr (kScale == 0) {
    store_low_now(p, v);
  } else {
    __asm__ volatile("vmovups %t0, (%1,%2,%c3)"
                     :
                     : "v"(v), "r"(p), "r"(multiple), "i"(kScale)
                     : "memory");
  }
}
inline Vec set1_now(const float& x) {
  Vec v;
  __asm__ volatile("vbroadcastss %1, %0" : "=v"(v) : "m"(x));
  return v;
}
// Keeps an accumulator where it is.
inline void settle(Vec& acc) { __asm__ volatile("" : "+v"(acc)); }
#else
inline Vec low_and_low(Vec a, Vec b) {
  return _mm512_permutex2var_ps(
      a, _mm512_set_epi32(23, 22, 21, 20, 19, 18, 17, 16, 7, 6, 5, 4, 3, 2, 1, 0), b);
}
inline Vec high(Vec a) {
  return _mm512_permutexvar_ps(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 15, 14, 13, 12, 11, 10, 9, 8), a);
}
inline Vec high_and_low(Vec a, Vec b) {
  return _mm512_permutex2var_ps(
      a, _mm512_set_epi32(23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8), b);
}
inline void store_now(float* p, Vec v) { store(p, v); }
inline void store_low_now(float* p, Vec v) { store_low(p, v); }
template <int kScale>
inline void store_now(float* p, int64_t multiple, Vec v) {
  store(p + multiple / 4 * kScale, v);
}
template <int kScale>
inline void store_low_now(float* p, int64_t multiple, Vec v) {
  store_low(p + multiple / 4 * kScale, v);
}
inline Vec set1_now(const float& x) { return set1(x); }
inline void accumulate_now(Vec& acc, Vec a, Vec b) { acc = fma(a, b, acc); }
inline void accumulate_half_now(Vec& acc, Vec a, Vec b) { acc = fma(a, b, acc); }
template <int kOffset>
inline Vec load_now(const float* p) {
  return load(p + kOffset);
}
template <int kOffset>
inline Vec load_half_now(const float* p) {
  return load_low(p + kOffset);
}
template <int kOffset>
inline Vec broadcast_now(const float* p) {
  return broadcast(p + kOffset);
}
template <int kOffset>
inline void accumulate_now(Vec& acc, const float* p, Vec b) {
  acc = fma(broadcast(p + kOffset), b, acc);
}
template <int kIndex>
inline const float* address_of(const Strided& x) {
  using Index = StridedIndex<kIndex>;
  return Index::base(x) + (Index::kIsBase ? 0 : Index::multiple(x) / 4 * Index::kScale);
}
template <int kIndex, int kOffset>
inline Vec load_at(const Strided& x) {
  return load(address_of<kIndex>(x) + kOffset);
}
template <int kIndex>
inline Vec load_half_at(const Strided& x) {
  return load_low(address_of<kIndex>(x));
}
template <int kIndex>
inline void insert_high_at(Vec& v, const Strided& x) {
  v = low_and_low(v, load_low(address_of<kIndex>(x)));
}
template <int kIndex, int kOffset>
inline Vec broadcast_now(const Strided& x) {
  return broadcast(address_of<kIndex>(x) + kOffset);
}
template <int kIndex, int kOffset>
inline void accumulate_now(Vec& acc, const Strided& x, Vec b) {
  acc = fma(broadcast_now<kIndex, kOffset>(x), b, acc);
}
template <int kIndex, int kOffset>
inline void accumulate_half_now(Vec& acc, const Strided& x, Vec b) {
  accumulate_now<kIndex, kOffset>(acc, x, b);
}
template <int kOffset>
inline Vec load_twice_now(const float* p) {
  return low_and_low(load_low(p + kOffset), load_low(p + kOffset));
}
inline Vec low_and_high_now(Vec a, Vec b) { return _mm512_mask_blend_ps(0xff00, a, b); }
template <int kOffset>
inline Vec load_even_twice_now(const float* p) {
  constexpr int32_t kOf[] = {0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14};
  return permuted(load(p + kOffset), zero(), load_lanes_now(kOf));
}
template <int kOffset>
inline Vec load_odd_twice_now(const float* p) {
  constexpr int32_t kOf[] = {1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15};
  return permuted(load(p + kOffset), zero(), load_lanes_now(kOf));
}
template <int kOffset>
inline Vec broadcast_two_now(const float* p) {
  return low_pairs(broadcast(p + kOffset), broadcast(p + kOffset + 1));
}
inline void settle(Vec&) {}
#endif
