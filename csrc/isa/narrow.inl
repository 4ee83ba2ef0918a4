// The kernels of eight lanes beside those of sixteen, in a namespace of their own: for the channels
// that make no vector of sixteen, and for shuffles. A masked vector takes as long as a whole one;
// where 512 bits are two passes, as on Zen 4, eight lanes of 256 take half of that. Included by
// table.inl.
#include "simd/strided.h"    // of both widths
#undef WEEBILL_NARROW_TAILS  // these have nothing narrower
namespace narrow {

#define WEEBILL_ISA_AVX2
#include "simd/simd.h"
#undef WEEBILL_ISA_AVX2
// clang-format off
#include "simd/activation.inl"
#include "kernels/depthwise.inl"
#include "kernels/planes.inl"
#include "kernels/pool.inl"
#include "kernels/shuffle.inl"
// clang-format on
#undef WEEBILL_DEPTHWISE_ROW
#undef WEEBILL_STORE_APART
#undef WEEBILL_STRIDED

}  // namespace narrow
#define WEEBILL_NARROW_TAILS
