// The AVX-512 kernels on a machine without AVX-512: the same sources, with SIMDe's portable
// versions of the intrinsics. Only for tests (WEEBILL_EMULATE_AVX512): right results, slowly.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

namespace {

// What SIMDe 0.7.4 lacks.
inline simde__m512 emulated_maskz_loadu_ps(simde__mmask16 mask, const void* p) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) lanes[i] = static_cast<const float*>(p)[i];
  }
  return simde_mm512_loadu_ps(lanes);
}

inline simde__m512 emulated_zextps256_ps512(simde__m256 v) {
  float lanes[16] = {};
  simde_mm256_storeu_ps(lanes, v);
  return simde_mm512_loadu_ps(lanes);
}

inline void emulated_mask_storeu_ps(void* p, simde__mmask16 mask, simde__m512 v) {
  float lanes[16];
  simde_mm512_storeu_ps(lanes, v);
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i & 1) != 0) static_cast<float*>(p)[i] = lanes[i];
  }
}

inline simde__m512i emulated_cvtps_epi32(simde__m512 v) {
  float lanes[16];
  int integers[16];
  simde_mm512_storeu_ps(lanes, v);
  for (int i = 0; i < 16; ++i) integers[i] = _mm_cvtss_si32(_mm_set_ss(lanes[i]));
  return simde_mm512_loadu_si512(integers);
}

inline void emulated_stream_ps(float* p, simde__m512 v) { simde_mm512_storeu_ps(p, v); }

}  // namespace

#undef _mm512_stream_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_cvtps_epi32
#undef _mm512_zextps256_ps512
#define _mm512_zextps256_ps512 emulated_zextps256_ps512
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_cvtps_epi32 emulated_cvtps_epi32
#define _mm512_stream_ps emulated_stream_ps

#define WEEBILL_ISA avx512
#define WEEBILL_ISA_AVX512
#define WEEBILL_NARROW_TAILS
#include "isa/table.inl"

#include "isa/avx512_units.inl"
