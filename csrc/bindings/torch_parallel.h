// torch's threads for the core.
#pragma once

#include <cstdint>

#include "bindings/stable_torch.h"
#include "core/parallel.h"

namespace weebill::bindings {

/// One region of torch's lasts for the whole call, and its threads serve the core's regions
/// meanwhile. torch's (libgomp's) ranges are dealt out for good: whoever is late holds the others
/// up, and its region ends when the last of its threads has come. So there is one of them per call.
/// Not the core's own pool: libgomp's threads wait for work on the cores for milliseconds after
/// each of torch's own operators, and in a network that is converted in part the two pools would
/// take turns in each other's way.
inline void torch_with_team(int threads, LentTeam::Leader leader, void* context) {
  LentTeam team(threads, leader, context);
  // A thread's ranges come in order, and the calling thread's begin at 0.
  const auto members = [](std::int64_t begin, std::int64_t end, void* pointer) {
    for (std::int64_t i = begin; i < end; ++i) {
      static_cast<LentTeam*>(pointer)->member(static_cast<int>(i));
    }
  };
  torch_check(torch_parallel_for(0, threads, 1, members, &team), "run a parallel region");
  team.rethrow();
}

inline int torch_threads() {
  std::uint32_t threads = 1;
  torch_check(torch_get_num_threads(&threads), "tell the number of threads");
  return static_cast<int>(threads);
}

}  // namespace weebill::bindings
