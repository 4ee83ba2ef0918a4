// The threads of the core where no embedder brings its own: one pool per process.
//
// Threads are started when a region first needs them and then stay. A thread without work looks for
// some during a few microseconds and then sleeps in the kernel. One region runs at a time: a second
// one, from another thread of the program or from inside the first, runs serially where it was
// called, with the same result. After a fork the child starts with a new pool.
#pragma once

#include <cstdint>

#include "core/weebill.h"

namespace weebill {

/// Runs body over ranges that cover [0, tasks), on at most `threads` threads, the caller's among
/// them. Rethrows the first exception of a body after all have ended.
void pool_run(std::int64_t tasks, void (*body)(void* context, std::int64_t begin, std::int64_t end),
              void* context, int threads);

/// Threads that the pool uses: those of set_pool_threads(), otherwise the environment variable
/// WEEBILL_NUM_THREADS, otherwise usable_cores(). Throws ValueError for a bad variable.
WEEBILL_API int pool_threads();

/// 1 to kMaxThreads, or 0 for the default. Throws ValueError otherwise.
WEEBILL_API void set_pool_threads(std::int64_t threads);

constexpr int kMaxThreads = 256;

}  // namespace weebill
