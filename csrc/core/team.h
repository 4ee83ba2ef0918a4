// The threads that share one call's work: a leader, which runs the call, and members that serve it.
//
// A call of a network is some dozens of parallel regions of a few microseconds each, and a thread
// that sleeps takes from five microseconds to fifty (in a virtual machine) until it works: members
// stay awake from the first region of a call to the last, and a region costs its leader two cache
// lines to and fro. Nobody waits for a thread that has not begun: what a member does not take, the
// others take from it. Tasks are dealt out in equal contiguous ranges, so that consecutive regions
// find their data in the caches of the same cores; who has done his own takes from the ends of the
// others'.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "core/weebill.h"

namespace weebill {

/// Does the tasks in [begin, end).
using ParallelBody = void (*)(void* context, std::int64_t begin, std::int64_t end);

class WEEBILL_API Team {
 public:
  /// `members` at most, the leader among them.
  explicit Team(int members);
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  /// Of the leader, for one region after the other: body over ranges that cover [0, tasks), on at
  /// most `members` threads. Rethrows the first exception of a body after all have ended.
  void run(std::int64_t tasks, ParallelBody body, void* context, int members);

  /// Of member 1, 2, ...: takes part in the regions until the team is closed.
  void serve(int member) noexcept;

  /// Of the leader, after its last region: members return from serve().
  void close();

  /// The calling thread is in a body.
  static bool inside();

 private:
  struct alignas(64) Member {
    // The tasks that are left of its range: 32 bits of the region's number, 16 of the first task
    // and 16 of the end. One word, so that who takes a task knows that it is of this region.
    std::atomic<std::uint64_t> range{0};
    std::atomic<bool> asleep{false};
    std::mutex mutex;
    std::condition_variable awake;
  };

  std::int64_t work(int member, std::uint32_t region);
  void wake(Member& member);
  void wake_children(int member, int members);
  template <typename Ready>
  void await(Member& member, Ready&& ready);

  const int capacity_;
  const std::unique_ptr<Member[]> members_;
  // Of the region, written before its number. Who reads them late, of the next region, takes no
  // task: the number in the range would have to be the old one.
  alignas(64) std::atomic<std::uint64_t> region_{0};
  std::atomic<int> size_{0};  // members that take part
  std::atomic<std::int64_t> tasks_{0}, unit_{1};
  std::atomic<ParallelBody> body_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<std::int64_t> finished_{0};  // units that others than the leader did
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

/// A team of threads that somebody else owns and lends for one call.
class WEEBILL_API LentTeam {
 public:
  using Leader = void (*)(void* context, Team* team);
  LentTeam(int members, Leader leader, void* context);

  /// To be called once for each member on any thread; for 0, which leads, on a thread that has no
  /// other of them to call before. Throws nothing.
  void member(int number) noexcept;

  /// After all have returned: throws what the leader has thrown.
  void rethrow() const;

 private:
  Team team_;
  Leader leader_;
  void* context_;
  std::exception_ptr error_;
};

}  // namespace weebill
