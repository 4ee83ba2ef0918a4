// Compiles every kernel for the instruction set named by WEEBILL_ISA and exports one symbol: its
// table. Included by each isa/<name>.cpp. All else has internal linkage, and no C++ library header
// may be reached from here: a template of it, instantiated with these flags and merged by the
// linker into common code, would crash older machines.
#include <stddef.h>
#include <stdint.h>

#include "kernels/args.h"

namespace weebill {

struct KernelTable {
#define WEEBILL_KERNEL(name, Args, summary) void (*name)(const Args&);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  bool leaves_zeros_out;
};

#if defined(WEEBILL_NARROW_TAILS)
namespace avx2 {
extern const KernelTable kTable;
}
#endif

namespace WEEBILL_ISA {
namespace {

// Of the narrow kernels some are not called.
#define WEEBILL_TYPED(stem) stem##_f32 [[maybe_unused]]

#include "kernels/unrolled.inl"
#if defined(WEEBILL_NARROW_TAILS)
#include "isa/narrow.inl"
#endif
#include "simd/simd.h"
// Order matters: each file uses the names of those before it.
#include "simd/activation.inl"
// clang-format off
#include "kernels/pointwise.inl"
#include "kernels/pointwise_backward.inl"
#include "kernels/half_lines.inl"
#include "kernels/depthwise.inl"
#include "kernels/depthwise_backward.inl"
#include "kernels/channels.inl"
#include "kernels/batch_norm.inl"
#include "kernels/pool.inl"
// clang-format on
#if defined(WEEBILL_NARROW_TAILS)
// Loads and stores of 16 mostly cross a line, and groups are often narrower.
using narrow::channel_shuffle_f32;
using narrow::shuffle_planes;
#else
#include "kernels/planes.inl"
#include "kernels/shuffle.inl"
#endif

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
