// torch's threads for the core.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

#include "bindings/stable_torch.h"
#include "core/parallel.h"

namespace weebill::bindings {

/// The body of one parallel region. An exception must not pass through torch's C interface: the
/// first one waits here until the region has ended.
struct Region {
  void (*body)(void* context, std::int64_t begin, std::int64_t end);
  void* context;
  std::mutex mutex;
  std::exception_ptr error;
};

inline void run_part(std::int64_t begin, std::int64_t end, void* pointer) {
  auto* region = static_cast<Region*>(pointer);
  try {
    region->body(region->context, begin, end);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(region->mutex);
    if (!region->error) region->error = std::current_exception();
  }
}

inline void torch_parallel_run(std::int64_t tasks, void (*body)(void*, std::int64_t, std::int64_t),
                               void* context) {
  Region region{body, context, {}, nullptr};
  torch_check(torch_parallel_for(0, tasks, 1, &run_part, &region), "run a parallel region");
  if (region.error) std::rethrow_exception(region.error);
}

inline int torch_threads() {
  std::uint32_t threads = 1;
  torch_check(torch_get_num_threads(&threads), "tell the number of threads");
  return static_cast<int>(threads);
}

}  // namespace weebill::bindings
