// Every kernel of kernels.def on every runnable ISA against the oracle. The tests are made from the
// list; the cases are in test_<stem>.cpp, one per kernels/<stem>.inl.
#include "kernel_cases.h"

namespace weebill::testing {
namespace {

#define WEEBILL_KERNEL(name, Args, summary) \
  const Registration registration_##name(#name, test_cases_of_##name);
#include "core/kernels.def"
#undef WEEBILL_KERNEL

WEEBILL_TEST(every_table_is_full) {
  for (const std::string& isa : isas()) {
    const KernelTable& table = kernels_of(isa);
#define WEEBILL_KERNEL(name, Args, summary)         \
  set_case("isa %s kernel %s", isa.c_str(), #name); \
  WEEBILL_EXPECT(table.name != nullptr);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  }
}

}  // namespace
}  // namespace weebill::testing
