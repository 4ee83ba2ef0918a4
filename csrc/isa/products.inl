// A table WEEBILL_ISA beside that of avx512: the same kernels, but products as WEEBILL_UNITS wants
// them. Included by avx512_units.inl, once for each.
namespace weebill {
namespace WEEBILL_ISA {
namespace {

using namespace avx512;
void pointwise_f32(const PointwiseArgs& a) { product<false, WEEBILL_UNITS>(a); }
void conv2d_f32(const PointwiseArgs& a) { product<true, WEEBILL_UNITS>(a); }

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
    kLeavesZerosOut,
};

}  // namespace WEEBILL_ISA
}  // namespace weebill
