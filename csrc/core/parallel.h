// How the core gets its threads: through one hook. The default is a pool of the core's own
// (thread_pool.h); the torch ops point it at torch's, so that torch.set_num_threads holds for them.
#pragma once

#include <cstdint>
#include <type_traits>

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

/// For all threads of the program. Not thread-safe against running ops.
WEEBILL_API void set_parallel_hook(const ParallelHook& hook);

/// For the calling thread, as long as the scope lives. The hook must outlive it.
class WEEBILL_API ParallelScope {
 public:
  explicit ParallelScope(const ParallelHook& hook);
  ~ParallelScope();
  ParallelScope(const ParallelScope&) = delete;
  ParallelScope& operator=(const ParallelScope&) = delete;

 private:
  const ParallelHook* before_;
};

/// The calling thread's ops use the core's pool with at most so many threads, as long as it lives.
class WEEBILL_API ThreadsScope {
 public:
  explicit ThreadsScope(int threads);
  ~ThreadsScope();
  ThreadsScope(const ThreadsScope&) = delete;
  ThreadsScope& operator=(const ThreadsScope&) = delete;

 private:
  int before_;
  ParallelScope scope_;
};

/// Threads that the calling thread's next op may use.
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
