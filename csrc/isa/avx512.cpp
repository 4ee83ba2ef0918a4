#define WEEBILL_ISA avx512
#define WEEBILL_ISA_AVX512
#define WEEBILL_NARROW_TAILS
#include <immintrin.h>
#include "isa/table.inl"

#include "isa/avx512_units.inl"
