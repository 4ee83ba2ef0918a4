#define WEEBILL_ISA neon_fp16
#define WEEBILL_ISA_NEON_FP16
#include <arm_neon.h>
#include "isa/table_fp16.inl"
