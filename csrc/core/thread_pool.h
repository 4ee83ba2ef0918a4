// The threads of the core where no embedder brings its own: one pool per process.
//
// Threads are started when a call first needs them and then stay. A thread without work looks for
// some during a fraction of a millisecond and then sleeps in the kernel. One call has them at a
// time: a second one, from another thread of the program, runs on its own thread, with the same
// result. After a fork the child starts with a new pool.
#pragma once

#include <cstdint>

#include "core/team.h"
#include "core/weebill.h"

namespace weebill {

/// ParallelHook::with_team of the pool.
WEEBILL_API void pool_with_team(int threads, LentTeam::Leader leader, void* context);

/// Threads that the pool uses: those of set_pool_threads(), otherwise the environment variable
/// WEEBILL_NUM_THREADS, otherwise usable_cores(). Throws ValueError for a bad variable.
WEEBILL_API int pool_threads();

/// 1 to kMaxThreads, or 0 for the default. Throws ValueError otherwise.
WEEBILL_API void set_pool_threads(std::int64_t threads);

constexpr int kMaxThreads = 256;

}  // namespace weebill
