#define WEEBILL_ISA avx512
#define WEEBILL_ISA_AVX512
#include <immintrin.h>
#include "isa/table.inl"
