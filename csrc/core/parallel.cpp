#include "core/parallel.h"

namespace weebill {
namespace {

void run_serially(std::int64_t tasks, void (*body)(void*, std::int64_t, std::int64_t),
                  void* context) {
  body(context, 0, tasks);
}

int one_thread() { return 1; }

ParallelHook& hook() {
  static ParallelHook instance = {&run_serially, &one_thread};
  return instance;
}

}  // namespace

void set_parallel_hook(const ParallelHook& new_hook) { hook() = new_hook; }

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
