#include "core/parallel.h"

#include <algorithm>

#include "core/thread_pool.h"

namespace weebill {
namespace {

thread_local int thread_limit = 0;  // 0: the pool's own number
thread_local const ParallelHook* scoped_hook = nullptr;

// What the calling thread leads.
thread_local Team* own_team = nullptr;
thread_local int own_team_size = 1;

int own_threads() { return thread_limit > 0 ? thread_limit : pool_threads(); }

constexpr ParallelHook kPoolHook = {&pool_with_team, &own_threads};
ParallelHook default_hook = kPoolHook;

const ParallelHook& hook() { return scoped_hook != nullptr ? *scoped_hook : default_hook; }

struct Call {
  void (*body)(void* context);
  void* context;
  int threads;
};

class Leading {
 public:
  Leading(Team* team, int size) {
    own_team = team;
    own_team_size = size;
  }
  Leading(const Leading&) = delete;
  Leading& operator=(const Leading&) = delete;
  ~Leading() { own_team = nullptr; }
};

void lead(void* context, Team* team) {
  const Call& call = *static_cast<const Call*>(context);
  const Leading leading(team, call.threads);
  call.body(call.context);
}

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

void detail::with_threads(int threads, void (*body)(void* context), void* context) {
  if (threads <= 1 || own_team != nullptr || Team::inside()) {
    body(context);
    return;
  }
  Call call = {body, context, threads};
  hook().with_team(threads, &lead, &call);
}

void detail::parallel_run(std::int64_t tasks, ParallelBody body, void* context) {
  if (tasks <= 0) return;
  if (tasks == 1 || Team::inside()) {
    body(context, 0, tasks);
  } else if (own_team != nullptr) {
    own_team->run(tasks, body, context, own_team_size);
  } else {
    struct Region {
      std::int64_t tasks;
      ParallelBody body;
      void* context;
      int threads;
    } region = {tasks, body, context,
                static_cast<int>(std::min<std::int64_t>(tasks, max_threads()))};
    const auto lead_one = [](void* pointer, Team* team) {
      const Region& r = *static_cast<const Region*>(pointer);
      if (team == nullptr) {
        r.body(r.context, 0, r.tasks);
      } else {
        team->run(r.tasks, r.body, r.context, r.threads);
      }
    };
    hook().with_team(region.threads, lead_one, &region);
  }
}

}  // namespace weebill
