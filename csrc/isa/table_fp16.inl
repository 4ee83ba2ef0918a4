// As table.inl, for the float16 kernels of networks' blocks: the same algorithms on vectors of
// halves.
#include <stdint.h>

#include "kernels/args.h"

namespace weebill {

struct HalfKernelTable {
#define WEEBILL_HALF_KERNEL(name, Args, summary) void (*name)(const Args&);
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
};

namespace WEEBILL_ISA {
namespace {

#define WEEBILL_TYPED(stem) stem##_f16

#include "simd/simd.h"

#define WEEBILL_KERNEL_ARGS(name) using name = name##Of<Element>;
WEEBILL_KERNEL_ARGS(PointwiseArgs)
WEEBILL_KERNEL_ARGS(DepthwiseArgs)
WEEBILL_KERNEL_ARGS(DepthwiseAnyArgs)
WEEBILL_KERNEL_ARGS(SumArgs)
WEEBILL_KERNEL_ARGS(ScaleArgs)
WEEBILL_KERNEL_ARGS(InterleaveArgs)
WEEBILL_KERNEL_ARGS(ActivateArgs)
WEEBILL_KERNEL_ARGS(MaxPoolArgs)
WEEBILL_KERNEL_ARGS(ShuffleArgs)
#undef WEEBILL_KERNEL_ARGS

// Order matters: each file uses the names of those before it.
#include "simd/activation.inl"
// clang-format off
#include "kernels/pointwise.inl"
#include "kernels/depthwise.inl"
#include "kernels/channels.inl"
#include "kernels/pool.inl"
#include "kernels/shuffle.inl"
#include "kernels/convert.inl"
// clang-format on

}  // namespace

extern const HalfKernelTable kTable;
const HalfKernelTable kTable = {
#define WEEBILL_HALF_KERNEL(name, Args, summary) &name,
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
};

}  // namespace WEEBILL_ISA
}  // namespace weebill
