#include "core/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>

#include "core/cpu.h"
#include "core/status.h"

namespace weebill {

// The tables that this build holds, exported by isa/<name>.cpp.
#if defined(WEEBILL_HAVE_AVX512)
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512_256 {
extern const KernelTable kTable;
}
namespace avx512_twoport {
extern const KernelTable kTable;
}
#endif
#if defined(WEEBILL_HAVE_AVX2)
namespace avx2 {
extern const KernelTable kTable;
}
#endif
#if defined(WEEBILL_HAVE_NEON)
namespace neon {
extern const KernelTable kTable;
}
namespace neon_inorder {
extern const KernelTable kTable;
}
#endif
#if defined(WEEBILL_HAVE_NEON_FP16)
namespace neon_fp16 {
extern const HalfKernelTable kTable;
}
#endif
namespace scalar {
extern const KernelTable kTable;
}
namespace scalar_fp16 {
extern const HalfKernelTable kTable;
}

namespace {

struct Isa {
  const char* name;
  bool runnable;
  const KernelTable* table;
  const HalfKernelTable* half;  // nullptr: none that run here
};

#if defined(WEEBILL_HAVE_AVX512)
// Which of AVX-512's tables is best says the processor; the others follow in the order written.
std::vector<Isa> avx512_isas() {
  const CpuInfo& cpu = cpu_info();
  std::vector<Isa> list = {
      {"avx512", cpu.avx512, &avx512::kTable, nullptr},
      {"avx512_twoport", cpu.avx512, &avx512_twoport::kTable, nullptr},
      {"avx512_256", cpu.avx512, &avx512_256::kTable, nullptr},
  };
  const std::ptrdiff_t best = cpu.two_passes ? 2 : cpu.two_ports ? 1 : 0;
  std::rotate(list.begin(), list.begin() + best, list.begin() + best + 1);
  return list;
}
#endif

// Best first.
const std::vector<Isa>& all_isas() {
#if defined(WEEBILL_HAVE_NEON)
  const HalfKernelTable* half = nullptr;
#if defined(WEEBILL_HAVE_NEON_FP16)
  if (cpu_info().fp16) half = &neon_fp16::kTable;
#endif
  static const Isa kNeon = {"neon", cpu_info().neon, &neon::kTable, half};
  static const Isa kNeonInOrder = {"neon_inorder", cpu_info().neon, &neon_inorder::kTable, half};
#endif
#if defined(WEEBILL_HAVE_AVX512)
  static const std::vector<Isa> kAvx512 = avx512_isas();
#endif
  static const std::vector<Isa> list = {
#if defined(WEEBILL_HAVE_AVX512)
      kAvx512[0],
      kAvx512[1],
      kAvx512[2],
#endif
#if defined(WEEBILL_HAVE_AVX2)
      {"avx2", cpu_info().avx2, &avx2::kTable, nullptr},
#endif
#if defined(WEEBILL_HAVE_NEON)
      cpu_info().in_order ? kNeonInOrder : kNeon,
      cpu_info().in_order ? kNeon : kNeonInOrder,
#endif
      {"scalar", true, &scalar::kTable, &scalar_fp16::kTable},
  };
  return list;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const Isa& find(const std::string& source, const std::string& name) {
  for (const Isa& entry : all_isas()) {
    if (entry.name != name) continue;
    check(entry.runnable, source, " must be an instruction set of this machine (", joined(isas()),
          "), got '", name, "', which this CPU can't run");
    return entry;
  }
  throw ValueError(concat(source, " must be one of ", joined(isas()), ", got '", name, "'"));
}

std::atomic<const Isa*>& current() {
  static std::atomic<const Isa*> isa{nullptr};
  return isa;
}

const Isa& chosen() {
  const Isa* isa = current().load(std::memory_order_acquire);
  if (isa != nullptr) return *isa;
  const char* wanted = std::getenv("WEEBILL_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    isa = &find("environment: WEEBILL_ISA", wanted);
  } else {
    for (const Isa& entry : all_isas()) {
      if (entry.runnable) {
        isa = &entry;
        break;
      }
    }
  }
  current().store(isa, std::memory_order_release);
  return *isa;
}

}  // namespace

const std::vector<KernelInfo>& kernel_list() {
  static const std::vector<KernelInfo> list = {
#define WEEBILL_KERNEL(name, Args, summary) {#name, summary},
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  };
  return list;
}

const std::vector<KernelInfo>& half_kernel_list() {
  static const std::vector<KernelInfo> list = {
#define WEEBILL_HALF_KERNEL(name, Args, summary) {#name, summary},
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
  };
  return list;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Isa& entry : all_isas()) {
    if (entry.runnable) names.push_back(entry.name);
  }
  return names;
}

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Isa& entry : all_isas()) names.push_back(entry.name);
  return names;
}

std::string isa() { return chosen().name; }

void set_isa(const std::string& name) {
  current().store(&find("set_isa: name", name), std::memory_order_release);
}

const KernelTable& kernels() { return *chosen().table; }

const HalfKernelTable* half_kernels() { return chosen().half; }

const HalfKernelTable* half_kernels_of(const std::string& name) {
  return find("half_kernels_of: name", name).half;
}

const KernelTable& kernels_of(const std::string& name) {
  return *find("kernels_of: name", name).table;
}

}  // namespace weebill
