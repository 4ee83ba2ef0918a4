#include "core/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>

#include "core/cpu.h"
#include "core/status.h"

namespace weebill {
namespace {

// Holds a flag that nobody waits for.
class TryLock {
 public:
  explicit TryLock(std::atomic_flag& flag)
      : flag_(flag), owns_(!flag.test_and_set(std::memory_order_acquire)) {}
  TryLock(const TryLock&) = delete;
  TryLock& operator=(const TryLock&) = delete;
  ~TryLock() {
    if (owns_) flag_.clear(std::memory_order_release);
  }
  bool owns() const { return owns_; }

 private:
  std::atomic_flag& flag_;
  bool owns_;
};

// One team for all calls: so no call has to wait for a thread that came late to the one before.
class Pool {
 public:
  void with_team(int threads, LentTeam::Leader leader, void* context) {
    const TryLock call(call_);
    if (call.owns()) start_threads(std::min(threads, kMaxThreads) - 1);
    leader(context, call.owns() ? &team_ : nullptr);
  }

 private:
  void start_threads(int wanted) {
    while (started_ < wanted) {
      // Signals are for the program's own threads. (On Linux sigprocmask is the calling thread's.)
      sigset_t all, before;
      sigfillset(&all);
      sigprocmask(SIG_SETMASK, &all, &before);
      try {
        std::thread([this, member = started_ + 1] { team_.serve(member); }).detach();
      } catch (const std::exception&) {
        wanted = started_;  // the system has no more: the threads that are there will do
      }
      sigprocmask(SIG_SETMASK, &before, nullptr);
      if (wanted > started_) ++started_;
    }
  }

  std::atomic_flag call_ = ATOMIC_FLAG_INIT;  // held by the thread whose call runs
  int started_ = 0;                           // threads; guarded by call_
  Team team_{kMaxThreads};
};

// Never destroyed: its threads run until the process ends.
std::atomic<Pool*> current_pool{nullptr};
std::atomic<int> wanted_threads{0};

// In the child of a fork there are no threads but the caller's, and the old pool's locks may be
// held by one that is gone.
void forget_pool() { current_pool.store(nullptr, std::memory_order_relaxed); }

Pool& pool() {
  Pool* found = current_pool.load(std::memory_order_acquire);
  if (found != nullptr) return *found;
  static const int registered = pthread_atfork(nullptr, nullptr, &forget_pool);
  static_cast<void>(registered);
  auto* made = new Pool();
  if (current_pool.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

int default_threads() {
  const char* text = std::getenv("WEEBILL_NUM_THREADS");
  if (text == nullptr || *text == '\0') return usable_cores();
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  check(*end == '\0' && value >= 1 && value <= kMaxThreads,
        "environment: WEEBILL_NUM_THREADS must be a number from 1 to ", kMaxThreads, ", got '",
        text, "'");
  return static_cast<int>(value);
}

}  // namespace

void pool_with_team(int threads, LentTeam::Leader leader, void* context) {
  pool().with_team(threads, leader, context);
}

int pool_threads() {
  const int threads = wanted_threads.load(std::memory_order_relaxed);
  if (threads > 0) return threads;
  const int found = default_threads();
  int nobody = 0;
  return wanted_threads.compare_exchange_strong(nobody, found) ? found : nobody;
}

void set_pool_threads(std::int64_t threads) {
  check(threads >= 0 && threads <= kMaxThreads, "set_threads: threads must be from 1 to ",
        kMaxThreads, ", got ", threads);
  wanted_threads.store(static_cast<int>(threads), std::memory_order_relaxed);
}

}  // namespace weebill
