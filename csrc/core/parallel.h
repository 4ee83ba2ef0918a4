// How the core gets its threads: through one hook. The default is a pool of the core's own
// (thread_pool.h); the torch ops point it at torch's, so that torch.set_num_threads holds for them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/team.h"
#include "core/weebill.h"

namespace weebill {

struct ParallelHook {
  /// Calls leader(context, team) once on this thread, with a team of up to `threads` threads that
  /// serve it meanwhile; with a null pointer if there are no threads to be had.
  void (*with_team)(int threads, LentTeam::Leader leader, void* context);
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

/// Calls body() once on this thread, with up to `threads` threads ready for the parallel_for()s in
/// it: having them costs microseconds, each region then a fraction of one.
template <typename Body>
void with_threads(int threads, Body&& body);

/// Calls body(task) for every task in [0, tasks), on the threads of the with_threads() around it or
/// on threads of its own; inside of another parallel_for() on the calling thread alone.
template <typename Body>
void parallel_for(std::int64_t tasks, Body&& body);

namespace detail {
WEEBILL_API void with_threads(int threads, void (*body)(void* context), void* context);
WEEBILL_API void parallel_run(std::int64_t tasks, ParallelBody body, void* context);
}  // namespace detail

template <typename Body>
void with_threads(int threads, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  detail::with_threads(
      threads, [](void* context) { (*static_cast<Plain*>(context))(); },
      const_cast<void*>(static_cast<const void*>(&body)));
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
