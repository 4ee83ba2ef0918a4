#include "core/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace weebill {
namespace {

// "32K", "1024K", "32M" as /sys spells a cache's size.
std::int64_t parse_size(const std::string& text) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (end == text.c_str() || value <= 0) return 0;
  if (*end == 'K') return value << 10;
  if (*end == 'M') return value << 20;
  return value;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void read_caches(CpuInfo& info) {
  const std::string base = "/sys/devices/system/cpu/cpu0/cache/index";
  for (int i = 0; i < 8; ++i) {
    const std::string index = base + std::to_string(i);
    const std::string level = first_line(index + "/level");
    const std::string type = first_line(index + "/type");
    const std::int64_t size = parse_size(first_line(index + "/size"));
    if (size == 0 || type == "Instruction") continue;
    if (level == "1") info.l1d_bytes = size;
    if (level == "2") info.l2_bytes = size;
    if (level == "3") info.l3_bytes = size;
  }
}

std::string read_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0 || line.rfind("Model", 0) == 0) {
      const std::size_t colon = line.find(':');
      if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
    }
  }
  return "unknown";
}

// Cores of the quota in a control group's cpu.max, "max 100000" or "150000 100000", rounded up; 0
// if there is none. A group's limit holds for all groups below it: the smallest counts.
int quota_cores() {
  std::string path;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  int cores = 0;
  for (;;) {
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    std::string quota;
    double period = 0;
    if (file >> quota >> period && quota != "max" && period > 0) {
      const double share = std::strtod(quota.c_str(), nullptr) / period;
      const int found = std::max(1, static_cast<int>(std::min(std::ceil(share), 1e6)));
      cores = cores == 0 ? found : std::min(cores, found);
    }
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) return cores;
    path.resize(slash);
  }
}

#if defined(__linux__) && defined(__aarch64__)
// The id registers MIDR_EL1 of the cores that this process may use; of the one that it runs on if
// /sys has none: where HWCAP_CPUID is set the kernel answers the read of a register that belongs to
// it. Empty where neither is there.
std::set<std::uint64_t> core_ids() {
  std::set<std::uint64_t> ids;
  cpu_set_t bound;
  CPU_ZERO(&bound);
  if (sched_getaffinity(0, sizeof(bound), &bound) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &bound)) continue;
      const std::string text = first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                                          "/regs/identification/midr_el1");
      if (!text.empty()) ids.insert(std::strtoull(text.c_str(), nullptr, 16));
    }
  }
  if (ids.empty() && (getauxval(AT_HWCAP) & HWCAP_CPUID) != 0) {
    std::uint64_t id = 0;
    __asm__("mrs %0, MIDR_EL1" : "=r"(id));
    ids.insert(id);
  }
  return ids;
}

// By implementer (bits 31-24, 0x41: Arm) and part number (15-4).
bool issues_in_order(std::uint64_t id) {
  const std::uint64_t part = id >> 4 & 0xfff;
  const bool a35 = part == 0xd04, a53 = part == 0xd03, a55 = part == 0xd05;
  return (id >> 24 & 0xff) == 0x41 && (a35 || a53 || a55);
}
#endif

#if defined(__x86_64__)
// AMD's family 0x19 with AVX-512. Leaf 0x8000001a names the width of the units, but hypervisors
// clear the bit for 512, and a Zen 5 would pass for one without.
bool is_zen4() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __cpuid(0, eax, ebx, ecx, edx);
  if (ebx != signature_AMD_ebx || ecx != signature_AMD_ecx || edx != signature_AMD_edx)
    return false;
  __cpuid(1, eax, ebx, ecx, edx);
  return (eax >> 8 & 0xf) + (eax >> 20 & 0xff) == 0x19;
}

// Its ports for 512 bits: 0 and 1 together, and 5.
bool is_intel() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __cpuid(0, eax, ebx, ecx, edx);
  return ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx && edx == signature_INTEL_edx;
}
#endif

CpuInfo detect() {
  CpuInfo info;
  info.model = read_model();
  read_caches(info);
#if defined(__x86_64__)
  __builtin_cpu_init();
  // These check the operating system's support for the wide registers as well.
  info.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  info.avx512 = info.avx2 && __builtin_cpu_supports("avx512f") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
#if defined(WEEBILL_EMULATE_AVX512)
  info.avx512 = info.avx2;
#endif
  info.two_passes = info.avx512 && is_zen4();
  info.two_ports = info.avx512 && is_intel();
  info.banked_l2 = info.foresees_tiles = is_intel();
#elif defined(__linux__) && defined(__aarch64__)
  const unsigned long features = getauxval(AT_HWCAP);
  info.neon = (features & HWCAP_ASIMD) != 0;
  info.fp16 = (features & HWCAP_ASIMDHP) != 0;
  info.dotprod = (features & HWCAP_ASIMDDP) != 0;
  constexpr unsigned long kI8mm = 1 << 13;  // HWCAP2_I8MM, which headers before Linux 5.6 lack
  info.i8mm = (getauxval(AT_HWCAP2) & kI8mm) != 0;
  const std::set<std::uint64_t> ids = core_ids();
  info.in_order = !ids.empty() && std::all_of(ids.begin(), ids.end(), issues_in_order);
#elif defined(__aarch64__)
  info.neon = true;
#endif
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

int usable_cores() {
  int cores = 1;
#if defined(__linux__)
  cpu_set_t bound;
  CPU_ZERO(&bound);
  if (sched_getaffinity(0, sizeof(bound), &bound) == 0) {
    std::set<std::string> physical;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &bound)) continue;
      const std::string name = std::to_string(cpu);
      const std::string siblings =
          first_line("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
      physical.insert(siblings.empty() ? name : siblings);
    }
    cores = std::max(1, static_cast<int>(physical.size()));
  }
  const int quota = quota_cores();
  if (quota > 0) cores = std::min(cores, quota);
#endif
  return cores;
}

}  // namespace weebill
