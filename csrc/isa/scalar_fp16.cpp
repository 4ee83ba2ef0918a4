#define WEEBILL_ISA scalar_fp16
#define WEEBILL_ISA_SCALAR_FP16
#include <math.h>
#include "isa/table_fp16.inl"
