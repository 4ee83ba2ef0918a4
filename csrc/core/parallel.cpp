#include "core/parallel.h"

#include "core/thread_pool.h"

namespace weebill {
namespace {

thread_local int thread_limit = 0;  // 0: the pool's own number
thread_local const ParallelHook* scoped_hook = nullptr;

int own_threads() { return thread_limit > 0 ? thread_limit : pool_threads(); }

void run_on_pool(std::int64_t tasks, void (*body)(void*, std::int64_t, std::int64_t),
                 void* context) {
  pool_run(tasks, body, context, own_threads());
}

constexpr ParallelHook kPoolHook = {&run_on_pool, &own_threads};
ParallelHook default_hook = kPoolHook;

const ParallelHook& hook() { return scoped_hook != nullptr ? *scoped_hook : default_hook; }

}  // namespace

void set_parallel_hook(const ParallelHook& new_hook) { default_hook = new_hook; }

ParallelScope::ParallelScope(const ParallelHook& new_hook) : before_(scoped_hook) {
  scoped_hook = &new_hook;
}

ParallelScope::~ParallelScope() { scoped_hook = before_; }

ThreadsScope::ThreadsScope(int threads) : before_(thread_limit), scope_(kPoolHook) {
  thread_limit = threads;
}

ThreadsScope::~ThreadsScope() { thread_limit = before_; }

int max_threads() {
  const int threads = hook().max_threads();
  return threads < 1 ? 1 : threads;
}

void detail::parallel_run(std::int64_t tasks, void (*body)(void*, std::int64_t, std::int64_t),
                          void* context) {
  if (tasks <= 0) return;
  if (tasks == 1) {
    body(context, 0, 1);
  } else {
    hook().run(tasks, body, context);
  }
}

}  // namespace weebill
