// What a vector is. Each instruction set defines the same names in its own header; algorithms in
// kernels/ are written once on them. No algorithm, no loop over data, no C++ library here.
//
//   kLanes                    floats per vector
//   kRegisters                vector registers of the architecture
//   Vec                       a vector of kLanes floats
//   zero() set1(x)            all lanes 0; all lanes x
//   load(p) store(p, v)       kLanes floats, any alignment
//   load_n(p, n)              lanes [0, n) from p, the others 0; 0 <= n <= kLanes; reads n floats
//   store_n(p, v, n)          writes lanes [0, n)
//   broadcast(p)              all lanes *p
//   fma(a, b, c)              a * b + c, rounded once
//   accumulate(acc, a, b)     acc = fma(a, b, acc), in place: for tiles of accumulators
//   add sub mul div           lane by lane
//   min_of(v, bound)          v where v < bound, bound where bound < v; NaN in v stays NaN
//   max_of(v, bound)          likewise
//   max_nan(a, b[, c])        the largest; NaN where one of them is NaN
//   where_positive(a, v)      v where a > 0, else 0
//   interleave_low(a, b)      a[0] b[0] a[1] b[1] ...: the first half of the pairs; one lane: a
//   interleave_high(a, b)     the second half of the pairs; one lane: b
//   interleave(v)             v of 4 or 8 vectors: the same of all of them, v[0][0] v[1][0] ...;
//   only
//                             where it costs less than rounds of the two above
//   store_interleaved(p, a, b, c)  a[0] b[0] c[0] a[1] ...: 3 * kLanes floats at p
//   round_even(v)             to the nearest integer, ties to even; |v| < 2^22
//   pow2(v)                   2^v for integer-valued v in [-126, 127]
//   prefetch(p)               a hint: bring the line at p to the second cache; p may be anywhere
//
// kernels/ may use these and nothing else of an instruction set.
#pragma once

#if defined(WEEBILL_ISA_SCALAR)
#include "simd/scalar.h"
#elif defined(WEEBILL_ISA_NEON)
#include "simd/neon.h"
#elif defined(WEEBILL_ISA_AVX2)
#include "simd/avx2.h"
#elif defined(WEEBILL_ISA_AVX512)
#include "simd/avx512.h"
#else
#error "include this from csrc/isa/<name>.cpp, which defines WEEBILL_ISA_<NAME>"
#endif
