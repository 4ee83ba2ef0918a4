#define WEEBILL_ISA neon
#define WEEBILL_ISA_NEON
#include <arm_neon.h>
#define WEEBILL_TILES_IN_REGISTERS
#include "isa/table.inl"
#undef WEEBILL_TILES_IN_REGISTERS

// The same for cores that issue in order (Cortex-A35, A53, A55), but for the product, which takes
// its operands by loads of 64 bits: kernels/scheduled.inl.
#define WEEBILL_NARROW_LOADS
namespace weebill {
namespace neon_inorder {
namespace {

using namespace neon;
#include "kernels/pointwise.inl"

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
};

}  // namespace neon_inorder
}  // namespace weebill
