#define WEEBILL_ISA scalar
#define WEEBILL_ISA_SCALAR
#include <math.h>
#include "isa/table.inl"
