// Large results in large pages.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace weebill::bindings {

/// Asks for huge pages under fresh memory of a megabyte or more. In training every layer's result
/// is new memory, and where the allocator got it from the system, its first write is a page fault
/// per 4 KiB: at batch 32 those took longer than the convolutions. A hint: nothing depends on it.
/// Neighbouring tensors' ranges touch, so that a huge page may span several of them.
inline void advise_huge_pages(void* data, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t kWorth = std::size_t{1} << 20;
  if (bytes < kWorth) return;
  static const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = address / page * page;
  const std::uintptr_t last = (address + bytes + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace weebill::bindings
