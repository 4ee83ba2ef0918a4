// How the core gets its threads: through one hook that the embedder sets. The default is serial.
// The torch ops point it at torch's pool, so that torch.set_num_threads holds.
#pragma once

#include <cstdint>

#include "core/weebill.h"

namespace weebill {

/// Runs body(context, begin, end) over disjoint ranges that cover [0, tasks), on any threads.
using ParallelRun = void (*)(std::int64_t tasks,
                             void (*body)(void* context, std::int64_t begin, std::int64_t end),
                             void* context);

struct ParallelHook {
  ParallelRun run;
  int (*max_threads)();
};

/// Not thread-safe against running ops; called once, when a binding is loaded.
WEEBILL_API void set_parallel_hook(const ParallelHook& hook);

/// Threads that the next op may use.
WEEBILL_API int max_threads();

/// Calls body(task) for every task in [0, tasks).
template <typename Body>
void parallel_for(std::int64_t tasks, Body&& body);

namespace detail {
WEEBILL_API void parallel_run(std::int64_t tasks,
                              void (*body)(void* context, std::int64_t begin, std::int64_t end),
                              void* context);
}

template <typename Body>
void parallel_for(std::int64_t tasks, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::parallel_run(
      tasks,
      [](void* context, std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) (*static_cast<Plain*>(context))(task);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace weebill
