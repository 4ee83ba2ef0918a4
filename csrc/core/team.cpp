#include "core/team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weebill {
namespace {

// A thread that waits looks for work without a pause, then lets others have the core between two
// looks, then sleeps. Together longer than the time between two calls of a program that does
// nothing else, short beside a frame of a video.
constexpr std::chrono::microseconds kSpin{50}, kYield{250};

constexpr std::uint64_t kClosed = ~std::uint64_t{0};
constexpr std::int64_t kMostUnits = 0xffff;

thread_local bool inside_body = false;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little for a condition; false if it did not come.
template <typename Ready>
bool spin_until(Ready&& ready) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 64; ++i) {
    if (ready()) return true;
    relax();
  }
  const Clock::time_point begin = Clock::now();
  for (;;) {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      relax();
    }
    const Clock::duration waited = Clock::now() - begin;
    if (waited > kYield) return ready();
    if (waited > kSpin) sched_yield();
  }
}

std::uint64_t pack(std::uint32_t region, std::int64_t begin, std::int64_t end) {
  return std::uint64_t{region} << 32 | static_cast<std::uint64_t>(begin) << 16 |
         static_cast<std::uint64_t>(end);
}

}  // namespace

bool Team::inside() { return inside_body; }

Team::Team(int members)
    : capacity_(std::max(members, 1)), members_(new Member[static_cast<std::size_t>(capacity_)]) {}

void Team::run(std::int64_t tasks, ParallelBody body, void* context, int members) {
  if (tasks <= 0) return;
  const std::int64_t unit = (tasks + kMostUnits - 1) / kMostUnits;
  const std::int64_t units = (tasks + unit - 1) / unit;
  const int size = static_cast<int>(std::min<std::int64_t>({members, capacity_, units}));
  const auto region = static_cast<std::uint32_t>(region_.load(std::memory_order_relaxed) + 1);
  size_.store(size, std::memory_order_relaxed);
  tasks_.store(tasks, std::memory_order_relaxed);
  unit_.store(unit, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  for (int i = 0; i < size; ++i) {
    members_[i].range.store(pack(region, i * units / size, (i + 1) * units / size),
                            std::memory_order_release);
  }
  region_.store(region, std::memory_order_seq_cst);
  wake_children(0, size);
  const std::int64_t left = units - work(0, region);
  const auto done = [&] { return finished_.load(std::memory_order_seq_cst) == left; };
  if (!done()) await(members_[0], done);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::serve(int member) noexcept {
  std::uint64_t seen = 0;
  const auto called = [&] {
    const std::uint64_t region = region_.load(std::memory_order_seq_cst);
    return region != seen && (region == kClosed || member < size_.load(std::memory_order_relaxed));
  };
  for (;;) {
    await(members_[member], called);
    seen = region_.load(std::memory_order_seq_cst);
    if (seen == kClosed) return;
    // Who was called for the region before and comes late may have no part in this one.
    const int size = size_.load(std::memory_order_relaxed);
    if (member >= size) continue;
    wake_children(member, size);
    const std::int64_t done = work(member, static_cast<std::uint32_t>(seen));
    if (done == 0) continue;
    finished_.fetch_add(done, std::memory_order_seq_cst);
    wake(members_[0]);
  }
}

void Team::close() {
  region_.store(kClosed, std::memory_order_seq_cst);
  for (int i = 1; i < capacity_; ++i) wake(members_[i]);
}

// Takes tasks, its own from the front and then the others' from the end, and does them.
std::int64_t Team::work(int member, std::uint32_t region) {
  const int size = size_.load(std::memory_order_relaxed);
  std::int64_t done = 0;
  inside_body = true;
  for (int i = 0; i < size; ++i) {
    const bool own = i == 0;
    std::atomic<std::uint64_t>& range = members_[(member + i) % size].range;
    for (std::uint64_t left = range.load(std::memory_order_acquire);;) {
      const auto begin = static_cast<std::int64_t>(left >> 16 & 0xffff);
      const auto end = static_cast<std::int64_t>(left & 0xffff);
      if (left >> 32 != region || begin >= end) break;
      // As long as a task is left nobody changes these.
      const std::int64_t unit = unit_.load(std::memory_order_relaxed);
      const std::int64_t tasks = tasks_.load(std::memory_order_relaxed);
      const ParallelBody body = body_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const std::uint64_t rest = own ? pack(region, begin + 1, end) : pack(region, begin, end - 1);
      if (!range.compare_exchange_weak(left, rest, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        continue;
      }
      left = rest;
      const std::int64_t first = (own ? begin : end - 1) * unit;
      try {
        body(context, first, std::min(first + unit, tasks));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
      ++done;
    }
  }
  inside_body = false;
  return done;
}

// Waking a thread costs its waker several microseconds: each wakes two others.
void Team::wake_children(int member, int members) {
  for (int i = 2 * member + 1; i <= 2 * member + 2 && i < members; ++i) wake(members_[i]);
}

void Team::wake(Member& member) {
  if (!member.asleep.load(std::memory_order_seq_cst)) return;
  {
    const std::lock_guard<std::mutex> lock(member.mutex);
    member.asleep.store(false, std::memory_order_relaxed);
  }
  member.awake.notify_one();
}

// What makes `ready` true is written before wake(), both in the one order of all seq_cst
// operations: either it is seen here, or wake() sees the sleeper. (std::condition_variable::wait is
// a newer symbol than wheels may need.)
template <typename Ready>
void Team::await(Member& member, Ready&& ready) {
  if (spin_until(ready)) return;
  std::unique_lock<std::mutex> lock(member.mutex);
  for (;;) {
    member.asleep.store(true, std::memory_order_seq_cst);
    if (ready()) break;
    pthread_cond_wait(member.awake.native_handle(), lock.mutex()->native_handle());
  }
  member.asleep.store(false, std::memory_order_relaxed);
}

LentTeam::LentTeam(int members, Leader leader, void* context)
    : team_(members), leader_(leader), context_(context) {}

void LentTeam::member(int number) noexcept {
  if (number > 0) {
    team_.serve(number);
    return;
  }
  try {
    leader_(context_, &team_);
  } catch (...) {
    error_ = std::current_exception();
  }
  team_.close();
}

void LentTeam::rethrow() const {
  if (error_) std::rethrow_exception(error_);
}

}  // namespace weebill
