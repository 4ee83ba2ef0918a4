// Which kernels run: the table of one instruction set (ISA), chosen once when the library loads.
#pragma once

#include <string>
#include <vector>

#include "core/weebill.h"
#include "kernels/args.h"

namespace weebill {

/// One function pointer per line of kernels.def.
struct KernelTable {
#define WEEBILL_KERNEL(name, Args, summary) void (*name)(const Args&);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  bool leaves_zeros_out;  ///< its depthwise kernels: DepthwiseArgs
};

/// The same of the float16 kernels.
struct HalfKernelTable {
#define WEEBILL_HALF_KERNEL(name, Args, summary) void (*name)(const Args&);
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
};

struct KernelInfo {
  const char* name;
  const char* summary;
};

/// Every float32 kernel, and every float16 kernel, in the order of kernels.def.
WEEBILL_API const std::vector<KernelInfo>& kernel_list();
WEEBILL_API const std::vector<KernelInfo>& half_kernel_list();

/// The ISAs that this build holds and this machine runs, best first; "scalar" is always last.
WEEBILL_API std::vector<std::string> isas();
/// All ISAs that this build holds, runnable or not.
WEEBILL_API std::vector<std::string> built_isas();
/// The one in use. The first choice is WEEBILL_ISA from the environment, then the best.
WEEBILL_API std::string isa();
/// Throws ValueError for a name that is unknown or that this machine can't run.
WEEBILL_API void set_isa(const std::string& name);

/// The table in use. A bad WEEBILL_ISA makes it throw ValueError.
WEEBILL_API const KernelTable& kernels();
/// Its float16 kernels; nullptr where the ISA or this processor has no float16 arithmetic. Those of
/// NEON need armv8.2's asimdhp; those of "scalar" give the same bits slowly, on any machine.
WEEBILL_API const HalfKernelTable* half_kernels();
/// The tables of a runnable ISA, for tests.
WEEBILL_API const HalfKernelTable* half_kernels_of(const std::string& name);
WEEBILL_API const KernelTable& kernels_of(const std::string& name);

}  // namespace weebill
