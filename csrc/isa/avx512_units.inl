// Other tables of AVX-512, after table.inl: the same kernels but for products.
//   avx512_256      for processors that take two passes for 512 bits (Zen 4): columns of a product
//                   that are one block of 16 channels wide, or one and a half, or a half one, by
//                   AVX2's kernels. There a tile of 512 bits has broadcasts of its own, which take
//                   turns with the FMAs.
//   avx512_twoport  for processors whose every operation on 512 bits takes one of two ports, the
//                   FMAs' (Intel): columns of one block and a half by interleaved_tiles.inl, first
//                   convolutions with one block of outputs as on Zen 4 (window_tiles.inl).
namespace weebill {

namespace avx512_256 {
namespace {

using namespace avx512;
void pointwise_f32(const PointwiseArgs& a) { product<false, Units::kHalves>(a); }
void conv2d_f32(const PointwiseArgs& a) { product<true, Units::kHalves>(a); }

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
};

}  // namespace avx512_256

namespace avx512_twoport {
namespace {

using namespace avx512;
void pointwise_f32(const PointwiseArgs& a) { product<false, Units::kShared>(a); }
void conv2d_f32(const PointwiseArgs& a) { product<true, Units::kShared>(a); }

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
#define WEEBILL_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
};

}  // namespace avx512_twoport
}  // namespace weebill
