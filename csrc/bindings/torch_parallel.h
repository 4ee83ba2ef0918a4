// torch's threads for the core.
#pragma once

#include <chrono>
#include <cstdint>

#include "bindings/stable_torch.h"
#include "core/late_threads.h"
#include "core/parallel.h"
#include "core/thread_pool.h"

namespace weebill::bindings {

/// One region of torch's lasts for the whole call, and its threads serve the core's regions
/// meanwhile. torch's (libgomp's) ranges are dealt out for good: whoever is late holds the others
/// up, and its region ends when the last of its threads has come. So there is one of them per call.
/// The core's own pool only while torch's threads come late: they wait for work on the cores for
/// milliseconds after each of torch's own operators, and in a network that is converted in part
/// the two would take turns in each other's way (4.7 ms for 2.6 with an operator between).
inline void torch_with_team(int threads, LentTeam::Leader leader, void* context) {
  static LateThreads late;
  if (late.avoid()) {
    pool_with_team(threads, leader, context);
    return;
  }
  using Clock = std::chrono::steady_clock;
  struct Led {
    LentTeam::Leader leader;
    void* context;
    Clock::time_point end;
  } led = {leader, context, {}};
  const auto lead = [](void* pointer, Team* team) {
    Led& l = *static_cast<Led*>(pointer);
    l.leader(l.context, team);
    l.end = Clock::now();
  };
  const Clock::time_point begin = led.end = Clock::now();
  LentTeam team(threads, lead, &led);
  // A thread's ranges come in order, and the calling thread's begin at 0.
  const auto members = [](std::int64_t first, std::int64_t last, void* pointer) {
    for (std::int64_t i = first; i < last; ++i) {
      static_cast<LentTeam*>(pointer)->member(static_cast<int>(i));
    }
  };
  torch_check(torch_parallel_for(0, threads, 1, members, &team), "run a parallel region");
  if (led.end != begin) late.ended(led.end - begin, Clock::now() - led.end);
  team.rethrow();
}

inline int torch_threads() {
  std::uint32_t threads = 1;
  torch_check(torch_get_num_threads(&threads), "tell the number of threads");
  return static_cast<int>(threads);
}

}  // namespace weebill::bindings
