#define WEEBILL_ISA neon
#define WEEBILL_ISA_NEON
#include <arm_neon.h>
#include "isa/table.inl"
