// Every kernel of kernels.def on every runnable ISA against the oracle. The tests are made from the
// list; the cases are in test_<stem>.cpp, one per kernels/<stem>.inl.
#include "core/cpu.h"
#include "kernel_cases.h"

namespace weebill::testing {
namespace {

#define WEEBILL_KERNEL(name, Args, summary) \
  const Registration registration_##name(#name, test_cases_of_##name);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
#define WEEBILL_HALF_KERNEL(name, Args, summary) \
  const Registration registration_##name(#name, test_cases_of_##name);
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL

WEEBILL_TEST(every_table_is_full) {
  for (const std::string& isa : isas()) {
    const KernelTable& table = kernels_of(isa);
#define WEEBILL_KERNEL(name, Args, summary)         \
  set_case("isa %s kernel %s", isa.c_str(), #name); \
  WEEBILL_EXPECT(table.name != nullptr);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
    const HalfKernelTable* halves = half_kernels_of(isa);
    if (halves == nullptr) continue;
#define WEEBILL_HALF_KERNEL(name, Args, summary)    \
  set_case("isa %s kernel %s", isa.c_str(), #name); \
  WEEBILL_EXPECT(halves->name != nullptr);
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
  }
}

// Neither less nor more: an instruction that a processor lacks would end the process.
WEEBILL_TEST(float16_kernels_are_there_where_the_processor_has_them) {
  for (const std::string& isa : isas()) {
    set_case("isa %s", isa.c_str());
    const bool wanted = isa == "scalar" || (isa.rfind("neon", 0) == 0 && cpu_info().fp16);
    WEEBILL_EXPECT((half_kernels_of(isa) != nullptr) == wanted);
  }
}

}  // namespace
}  // namespace weebill::testing
