#include "core/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "core/cpu.h"
#include "core/status.h"

namespace weebill {
namespace {

using Body = void (*)(void* context, std::int64_t begin, std::int64_t end);

// About what it costs to put a thread to sleep and to wake it.
constexpr std::chrono::microseconds kSpin{4};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little for a condition; false if it did not come.
template <typename Condition>
bool spin_until(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

// True on the pool's threads, and on any thread while it runs a region.
thread_local bool inside_region = false;

// std::condition_variable::wait and std::mutex::try_lock are newer symbols than wheels may need.
template <typename Condition>
void wait_until(std::condition_variable& variable, std::unique_lock<std::mutex>& lock,
                Condition&& condition) {
  while (!condition()) {
    pthread_cond_wait(variable.native_handle(), lock.mutex()->native_handle());
  }
}

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

class Pool {
 public:
  // False if another region is running: then nothing has been done.
  bool try_run(std::int64_t tasks, Body body, void* context, int threads) {
    const TryLock region(region_);
    if (!region.owns()) return false;
    start_threads(threads - 1);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_ = tasks;
      body_ = body;
      context_ = context;
      error_ = nullptr;
      next_.store(0, std::memory_order_relaxed);
      seats_ = threads - 1;
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    inside_region = true;
    work();
    inside_region = false;
    std::unique_lock<std::mutex> lock(mutex_);
    seats_ = 0;  // who has not come yet need not come
    if (busy_.load(std::memory_order_relaxed) != 0) {
      lock.unlock();
      const auto done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
      const bool spun = spin_until(done);
      lock.lock();
      if (!spun) wait_until(done_, lock, done);
    }
    const std::exception_ptr error = error_;
    error_ = nullptr;
    lock.unlock();
    if (error) std::rethrow_exception(error);
    return true;
  }

 private:
  void start_threads(int wanted) {
    while (started_ < wanted) {
      // Signals are for the program's own threads. (On Linux sigprocmask is the calling thread's.)
      sigset_t all, before;
      sigfillset(&all);
      sigprocmask(SIG_SETMASK, &all, &before);
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::exception&) {
        wanted = started_;  // the system has no more: the threads that are there will do
      }
      sigprocmask(SIG_SETMASK, &before, nullptr);
      if (wanted > started_) ++started_;
    }
  }

  [[noreturn]] void serve() {
    inside_region = true;
    std::uint64_t seen = 0;
    for (;;) {
      const auto called = [this, &seen] { return epoch_.load(std::memory_order_acquire) != seen; };
      spin_until(called);
      std::unique_lock<std::mutex> lock(mutex_);
      wait_until(wake_, lock, called);
      seen = epoch_.load(std::memory_order_relaxed);
      if (seats_ == 0) continue;
      --seats_;
      busy_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      work();
      lock.lock();
      if (busy_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
    }
  }

  void work() {
    for (;;) {
      const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      try {
        body_(context_, task, task + 1);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  std::atomic_flag region_ = ATOMIC_FLAG_INIT;  // held by the thread whose region runs
  int started_ = 0;                             // threads; guarded by region_

  std::mutex mutex_;  // of all that follows, but for what is atomic
  std::condition_variable wake_, done_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<int> busy_{0};  // threads of the pool that are in the region
  int seats_ = 0;             // threads that may still enter it
  std::exception_ptr error_;
  // Written before a thread may enter the region, and not while one is in it.
  std::int64_t tasks_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
  std::atomic<std::int64_t> next_{0};
};

// Never destroyed: its threads run until the process ends.
std::atomic<Pool*> current_pool{nullptr};
std::atomic<int> wanted_threads{0};

// In the child of a fork there are no threads but the caller's, and the old pool's locks may be
// held by one that is gone.
void forget_pool() {
  current_pool.store(nullptr, std::memory_order_relaxed);
  inside_region = false;
}

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

void pool_run(std::int64_t tasks, Body body, void* context, int threads) {
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  if (threads > 1 && !inside_region && pool().try_run(tasks, body, context, threads)) return;
  body(context, 0, tasks);
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
