#define WEEBILL_ISA avx2
#define WEEBILL_ISA_AVX2
#include <immintrin.h>
#include "isa/table.inl"
