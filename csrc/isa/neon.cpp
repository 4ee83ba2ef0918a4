#define WEEBILL_ISA neon
#define WEEBILL_ISA_NEON
#include <arm_neon.h>
#define WEEBILL_TILES_IN_REGISTERS
#include "isa/table.inl"
#undef WEEBILL_TILES_IN_REGISTERS

// The same for cores that issue in order (Cortex-A35, A53, A55), but for the product and the
// depthwise tiles, which take their operands by loads of 64 bits: kernels/scheduled.inl and
// kernels/in_order_depthwise.inl.
#define WEEBILL_NARROW_LOADS
namespace weebill {
namespace neon_inorder {
namespace {

using namespace neon;
#include "kernels/pointwise.inl"
// clang-format off
#include "kernels/in_order_depthwise.inl"
// clang-format on

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
    kLeavesZerosOut,
};

}  // namespace neon_inorder
}  // namespace weebill
