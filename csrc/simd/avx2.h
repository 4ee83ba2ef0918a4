// Eight lanes: AVX2 with FMA.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "simd/strided.h"

constexpr int64_t kLanes = 8;
constexpr int64_t kRegisters = 16;

using Vec = __m256;

// A sliding window over this table gives the mask of the first n lanes.
alignas(64) static const int32_t kMaskTable[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                   0,  0,  0,  0,  0,  0,  0,  0};
inline __m256i mask_of(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMaskTable + 8 - n));
}

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, mask_of(n)); }
// Not VMASKMOVPS: to memory it is some 40 micro-operations on Zen, 12 cycles and more.
inline void store_n(float* p, Vec a, int64_t n) {
  if (n >= kLanes) {
    store(p, a);
    return;
  }
  __m128 part = _mm256_castps256_ps128(a);
  if ((n & 4) != 0) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(a, 1);
    p += 4;
  }
  if ((n & 2) != 0) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if ((n & 1) != 0) _mm_store_ss(p, part);
}
inline Vec broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// An FMA that keeps its accumulator where it is. Left to itself gcc turns the accumulators of an
// unrolled tile round between registers and spills some of them.
inline void accumulate(Vec& acc, Vec a, Vec b) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "xm"(b));
}
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
// MINPS and MAXPS return the second operand when one is NaN: v goes second.
inline Vec min_of(Vec v, Vec bound) { return _mm256_min_ps(bound, v); }
inline Vec max_of(Vec v, Vec bound) { return _mm256_max_ps(bound, v); }
inline Vec max_nan(Vec a, Vec b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
// The chain of maxima keeps a NaN of c only; an UNORD mask of ones is one as well.
inline Vec max_nan(Vec a, Vec b, Vec c) {
  return _mm256_or_ps(_mm256_max_ps(_mm256_max_ps(a, b), c), _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
}
inline Vec where_positive(Vec a, Vec v) {
  return _mm256_and_ps(v, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
}
// UNPCKLPS and UNPCKHPS work within halves of the register; the permutation brings those together.
inline Vec interleave_low(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
inline Vec interleave_high(Vec a, Vec b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
// Four in turn: quads of elements by two rounds within the halves, which then change places.
inline void interleave_quads(Vec (&v)[4]) {
  const Vec ab_low = _mm256_unpacklo_ps(v[0], v[1]), ab_high = _mm256_unpackhi_ps(v[0], v[1]);
  const Vec cd_low = _mm256_unpacklo_ps(v[2], v[3]), cd_high = _mm256_unpackhi_ps(v[2], v[3]);
  const auto low = [](Vec a, Vec b) {
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
  };
  const auto high = [](Vec a, Vec b) {
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
  };
  v[0] = low(ab_low, cd_low);     // elements 0 and 4 of all four
  v[1] = high(ab_low, cd_low);    // 1 and 5
  v[2] = low(ab_high, cd_high);   // 2 and 6
  v[3] = high(ab_high, cd_high);  // 3 and 7
}
inline void interleave(Vec (&v)[4]) {
  interleave_quads(v);
  const Vec low = _mm256_permute2f128_ps(v[2], v[3], 0x20);
  const Vec high = _mm256_permute2f128_ps(v[0], v[1], 0x31);
  v[0] = _mm256_permute2f128_ps(v[0], v[1], 0x20);
  v[3] = _mm256_permute2f128_ps(v[2], v[3], 0x31);
  v[1] = low;
  v[2] = high;
}
// Eight in turn are the columns of a matrix.
inline void interleave(Vec (&v)[8]) {
  Vec a[4] = {v[0], v[1], v[2], v[3]}, b[4] = {v[4], v[5], v[6], v[7]};
  interleave_quads(a);
  interleave_quads(b);
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(a[i], b[i], 0x20);
    v[4 + i] = _mm256_permute2f128_ps(a[i], b[i], 0x31);
  }
}
// Element i of a, b, c goes to lane (3 i + 0, 1, 2) % 8 of whichever vector: one permutation of
// each puts all elements into their lanes, for 3 and 8 have no common divisor.
inline void store_interleaved(float* p, Vec a, Vec b, Vec c) {
  a = _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
  b = _mm256_permutevar8x32_ps(b, _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2));
  c = _mm256_permutevar8x32_ps(c, _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
  store(p, _mm256_blend_ps(_mm256_blend_ps(a, b, 0x92), c, 0x24));
  store(p + 8, _mm256_blend_ps(_mm256_blend_ps(a, b, 0x24), c, 0x49));
  store(p + 16, _mm256_blend_ps(_mm256_blend_ps(a, b, 0x49), c, 0x92));
}
// Beside vectors of sixteen: one permutation and one store, where each half of them takes two
// and a store.
#if defined(__AVX512DQ__)
#define WEEBILL_STORE_PAIRS
inline void store_interleaved(float* p, Vec a, Vec b) {
  const __m512i turns = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  _mm512_storeu_ps(p, _mm512_permutexvar_ps(turns, both));
}
#endif
inline Vec round_even(Vec a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec pow2(Vec a) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
constexpr bool kStreams = true;
inline void stream(float* p, Vec a) { _mm256_stream_ps(p, a); }
// always_inline: gcc 12 drops calls of a function that does nothing but prefetch.
inline __attribute__((always_inline)) void prefetch(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}
inline __attribute__((always_inline)) void prefetch_near(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}
inline Vec load_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovups %1, %0" : "=x"(v) : "m"(*reinterpret_cast<const __m256_u*>(p)));
  return v;
}
inline void accumulate_now(Vec& acc, Vec a, Vec b) {
  __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b));
}
// The same, `kOffset` floats behind p, by one operand. The second one only says that memory from p
// on is read, without an address of its own.
using Readable = const float[1 << 20];
template <int kOffset>
inline Vec load_now(const float* p) {
  Vec v;
  __asm__ volatile("vmovups %c3(%1), %0"
                   : "=x"(v)
                   : "r"(p), "m"(*reinterpret_cast<Readable*>(p)),
                     "i"(kOffset * static_cast<int>(sizeof(float))));
  return v;
}
template <int kOffset>
inline Vec broadcast_now(const float* p) {
  Vec v;
  __asm__ volatile("vbroadcastss %c3(%1), %0"
                   : "=x"(v)
                   : "r"(p), "m"(*reinterpret_cast<Readable*>(p)),
                     "i"(kOffset * static_cast<int>(sizeof(float))));
  return v;
}
inline Vec broadcast_now(const float* p, int64_t index) {
  Vec v;
  __asm__ volatile("vbroadcastss (%1,%2,4), %0"
                   : "=x"(v)
                   : "r"(p), "r"(index), "m"(*reinterpret_cast<Readable*>(p)));
  return v;
}
inline Vec set1_now(const float& x) {
  Vec v;
  __asm__ volatile("vbroadcastss %1, %0" : "=x"(v) : "m"(x));
  return v;
}
inline void store_now(float* p, Vec v) {
  __asm__ volatile("vmovups %1, %0" : "=m"(*reinterpret_cast<__m256_u*>(p)) : "x"(v));
}
// Zen 3 takes some six vectors that are stored in a row; what comes behind more of them, the FMAs
// of the next tile too, is held up by up to 24 cycles. A few at a time cost nothing.
#define WEEBILL_STORE_APART

// Operands of an instruction each. In the order written: kernels/strided.inl.
#define WEEBILL_STRIDED
template <int kIndex>
inline Vec load_at(const Strided& x) {
  using Index = StridedIndex<kIndex>;
  Vec v;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vmovups (%1), %0" : "=x"(v) : "r"(Index::base(x)));
  } else {
    __asm__ volatile("vmovups (%1,%2,%c3), %0"
                     : "=x"(v)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale));
  }
  return v;
}

template <int kIndex>
inline void accumulate_at(Vec& acc, const Strided& x, Vec b) {
  using Index = StridedIndex<kIndex>;
  if constexpr (Index::kIsBase) {
    __asm__ volatile("vfmadd231ps (%1), %2, %0" : "+x"(acc) : "r"(Index::base(x)), "x"(b));
  } else {
    __asm__ volatile("vfmadd231ps (%1,%2,%c3), %4, %0"
                     : "+x"(acc)
                     : "r"(Index::base(x)), "r"(Index::multiple(x)), "i"(Index::kScale), "x"(b));
  }
}
