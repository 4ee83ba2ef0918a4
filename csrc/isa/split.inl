// AVX-512 for processors that take two passes for 512 bits (Zen 4), after table.inl: the same
// kernels, but for columns of a product that are one block of 16 channels wide, or one and a half,
// or a half one. There a tile of 512 bits has broadcasts of its own, which take turns with the
// FMAs.
namespace weebill {
namespace avx512_256 {
namespace {

using namespace avx512;
void pointwise_f32(const PointwiseArgs& a) { product<false, true>(a); }
void conv2d_f32(const PointwiseArgs& a) { product<true, true>(a); }

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
};

}  // namespace avx512_256
}  // namespace weebill
