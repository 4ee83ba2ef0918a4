// What a vector is. Each instruction set defines the same names in its own header; algorithms in
// kernels/ are written once on them. No algorithm, no loop over data, no C++ library here.
//
//   Element                   what tensors in memory are made of: float here, Half in *_fp16.h
//   kLanes                    elements per vector
//   kRegisters                vector registers of the architecture
//   Vec                       a vector of kLanes elements; arithmetic on them rounds to Element
//   zero() set1(x)            all lanes 0; all lanes x
//   load(p) store(p, v)       kLanes elements, any alignment
//   load_low(p) store_low(p, v)  the lower eight lanes of longer vectors; shorter ones whole
//   load_n(p, n)              lanes [0, n) from p, the others 0; 0 <= n <= kLanes; reads n of them
//   store_n(p, v, n)          writes lanes [0, n)
//   broadcast(p)              all lanes *p
//   fma(a, b, c)              a * b + c, rounded once
//   accumulate(acc, a, b)     acc = fma(a, b, acc), in place: for tiles of accumulators
//   add sub mul div           lane by lane
//   Sum                       kLanes float32 sums: load_sum(p) store_sum(p, s), load_sum_n(p, n)
//                             store_sum_n(p, s, n) of floats, add_to(s, v) = s + v
//   min_of(v, bound)          v where v < bound, bound where bound < v; NaN in v stays NaN
//   max_of(v, bound)          likewise
//   clamp(v, bound)           v within -bound and bound, a bound where v is NaN: one instruction,
//                             where WEEBILL_CLAMP says that there is one
//   max_nan(a, b[, c])        the largest; NaN where one of them is NaN
//   where_positive(a, v)      v where a > 0, else 0
//   interleave_low(a, b)      a[0] b[0] a[1] b[1] ...: the first half of the pairs; one lane: a
//   interleave_high(a, b)     the second half of the pairs; one lane: b
//   interleave(v)             v of 4 or 8 vectors: the same of all of them, v[0][0] v[1][0] ...;
//                             only where it costs less than rounds of the two above
//   store_interleaved(p, a, b, c)  a[0] b[0] c[0] a[1] ...: 3 * kLanes floats at p; these four not
//                             of sixteen lanes, whose channels are shuffled by eight
//   store_interleaved(p, a, b)  the same of two, where WEEBILL_STORE_PAIRS says that it costs less
//                             than interleaving and two stores
//   activate_exponential(v, activation)  silu or sigmoid, computed in float32
//   to_element(x) load_narrowed(p) store_widened(p, v)  where Element is Half: of one float and of
//                             kLanes of them
//   round_even(v)             to the nearest integer, ties to even; |v| < 2^22
//   pow2(v)                   2^v for integer-valued v in [-126, 127]
//   stream(p, v)              store past the caches where kStreams, p a multiple of v's bytes; a
//                             plain store elsewhere; others may read after publish_streams()
//   prefetch(p)               a hint: bring the line at p to the second cache; p may be anywhere
//
// kernels/ may use these and nothing else of an instruction set.
//
// Included once per width of vectors, each time in a namespace of its own: no guard.

#if defined(WEEBILL_ISA_SCALAR)
#include "simd/scalar.h"
#elif defined(WEEBILL_ISA_SCALAR_FP16)
#include "simd/scalar_fp16.h"
#elif defined(WEEBILL_ISA_NEON_FP16)
#include "simd/neon_fp16.h"
#elif defined(WEEBILL_ISA_NEON)
#include "simd/neon.h"
#elif defined(WEEBILL_ISA_AVX2)
#include "simd/avx2.h"
#elif defined(WEEBILL_ISA_AVX512)
#include "simd/avx512.h"
#else
#error "include this from csrc/isa/<name>.cpp, which defines WEEBILL_ISA_<NAME>"
#endif

#if !defined(WEEBILL_HALF)
#include "simd/exponential.inl"
using Element = float;
using Sum = Vec;
inline Sum load_sum(const float* p) { return load(p); }
inline Sum load_sum_n(const float* p, int64_t n) { return load_n(p, n); }
inline void store_sum(float* p, Sum s) { store(p, s); }
inline void store_sum_n(float* p, Sum s, int64_t n) { store_n(p, s, n); }
inline Sum add_to(Sum s, Vec v) { return add(s, v); }
#endif

#if !defined(WEEBILL_LOW_LANES)
inline Vec load_low(const Element* p) { return load(p); }
inline void store_low(Element* p, Vec v) { store(p, v); }
#endif
