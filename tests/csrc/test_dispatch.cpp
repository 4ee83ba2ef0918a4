// Choice of the instruction set, introspection, the CPU's description, the parallel hook.
#include <algorithm>
#include <cstdlib>
#include <set>

#include "core/cpu.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The first choice can be seen once per process and before any set_isa: this test is registered
// first, and CTest runs it with several values of WEEBILL_ISA.
WEEBILL_TEST(dispatch_first_choice) {
  const char* wanted = std::getenv("WEEBILL_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    WEEBILL_EXPECT(isa() == isas().front());
  } else if (contains(isas(), wanted)) {
    WEEBILL_EXPECT(isa() == wanted);
  } else {
    WEEBILL_EXPECT_THROW(ValueError, nullptr, isa());
    WEEBILL_EXPECT_THROW(ValueError, nullptr, kernels());
    // It stays an error, and can be mended.
    WEEBILL_EXPECT_THROW(ValueError, nullptr, kernels());
    set_isa("scalar");
    WEEBILL_EXPECT(isa() == "scalar");
  }
}

WEEBILL_TEST(dispatch_set_isa) {
  WEEBILL_EXPECT(!isas().empty() && isas().back() == "scalar");
  for (const std::string& name : isas()) {
    set_isa(name);
    WEEBILL_EXPECT(isa() == name);
    WEEBILL_EXPECT(&kernels() == &kernels_of(name));
    WEEBILL_EXPECT(contains(built_isas(), name));
  }
  const std::string before = isa();
  for (const char* name : {"", "sse9", "AVX2", "avx2 ", "scalar\n"}) {
    set_case("name '%s'", name);
    WEEBILL_EXPECT_THROW(ValueError, "set_isa", set_isa(name));
    WEEBILL_EXPECT_THROW(ValueError, nullptr, kernels_of(name));
    WEEBILL_EXPECT(isa() == before);
  }
  for (const std::string& name : built_isas()) {
    if (contains(isas(), name)) continue;
    set_case("built, but not runnable: %s", name.c_str());
    WEEBILL_EXPECT_THROW(ValueError, "set_isa", set_isa(name));
    WEEBILL_EXPECT_THROW(ValueError, nullptr, kernels_of(name));
    WEEBILL_EXPECT(isa() == before);
  }
}

WEEBILL_TEST(dispatch_kernel_list) {
  std::set<std::string> names;
  for (const KernelInfo& kernel : kernel_list()) {
    WEEBILL_EXPECT(names.insert(kernel.name).second);
    WEEBILL_EXPECT(kernel.summary != nullptr && *kernel.summary != '\0');
  }
  std::size_t count = 0;
#define WEEBILL_KERNEL(name, Args, summary) \
  WEEBILL_EXPECT(names.count(#name) == 1);  \
  ++count;
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  WEEBILL_EXPECT(count == kernel_list().size());
}

WEEBILL_TEST(cpu_info_is_plausible) {
  const CpuInfo& cpu = cpu_info();
  WEEBILL_EXPECT(&cpu == &cpu_info());
  WEEBILL_EXPECT(!cpu.model.empty());
  WEEBILL_EXPECT(cpu.l1d_bytes >= 8 << 10 && cpu.l1d_bytes <= 1 << 20);
  WEEBILL_EXPECT(cpu.l2_bytes >= cpu.l1d_bytes && cpu.l2_bytes <= std::int64_t{1} << 30);
  WEEBILL_EXPECT(cpu.l3_bytes == 0 || cpu.l3_bytes >= cpu.l2_bytes);
  WEEBILL_EXPECT(!cpu.avx512 || cpu.avx2);
  WEEBILL_EXPECT(cpu.avx2 == contains(isas(), "avx2") || !contains(built_isas(), "avx2"));
  WEEBILL_EXPECT(cpu.avx512 == contains(isas(), "avx512") || !contains(built_isas(), "avx512"));
  WEEBILL_EXPECT(cpu.neon == contains(isas(), "neon") || !contains(built_isas(), "neon"));
#if defined(__x86_64__)
  // The compiler's run-time library reads the same bits.
  __builtin_cpu_init();
  WEEBILL_EXPECT(cpu.avx2 == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
  WEEBILL_EXPECT(!(cpu.two_passes || cpu.two_ports) || cpu.avx512);
  WEEBILL_EXPECT(!(cpu.two_passes && cpu.two_ports));
  WEEBILL_EXPECT(!cpu.avx512 || cpu.two_ports == static_cast<bool>(__builtin_cpu_is("intel")));
  if (cpu.avx512 && contains(built_isas(), "avx512")) {
    WEEBILL_EXPECT(isas().front() == (cpu.two_passes  ? "avx512_256"
                                      : cpu.two_ports ? "avx512_twoport"
                                                      : "avx512"));
    for (const char* name : {"avx512", "avx512_twoport", "avx512_256"}) {
      WEEBILL_EXPECT(contains(isas(), name));
    }
  }
  WEEBILL_EXPECT(!cpu.neon && !cpu.fp16 && !cpu.dotprod && !cpu.i8mm && !cpu.in_order);
#elif defined(__aarch64__)
  WEEBILL_EXPECT(cpu.neon && !cpu.avx2 && !cpu.two_passes && !cpu.two_ports && !cpu.banked_l2);
  WEEBILL_EXPECT(isas().front() == (cpu.in_order ? "neon_inorder" : "neon"));
#endif
}

WEEBILL_TEST(activation_names_round_trip) {
  const std::vector<std::string>& names = activation_names();
  WEEBILL_EXPECT(names.size() == 8);
  for (std::size_t i = 0; i < names.size(); ++i) {
    WEEBILL_EXPECT(static_cast<std::size_t>(parse_activation("op", "act", names[i])) == i);
  }
  for (const char* name : {"", "Relu", "relu7", "tanh", "none "}) {
    set_case("name '%s'", name);
    WEEBILL_EXPECT_THROW(ValueError, "op", parse_activation("op", "act", name));
  }
}

WEEBILL_TEST(parallel_for_covers_every_task_once) {
  for (int threads : {1, 2, 3, 8}) {
    const ParallelMode mode(threads);
    WEEBILL_EXPECT(max_threads() == threads);
    for (std::int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 100}) {
      set_case("threads %d tasks %lld", threads, static_cast<long long>(tasks));
      std::vector<int> runs(static_cast<std::size_t>(tasks));
      parallel_for(tasks, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
      WEEBILL_EXPECT(std::count(runs.begin(), runs.end(), 1) == tasks);
    }
  }
}

}  // namespace
}  // namespace weebill::testing
