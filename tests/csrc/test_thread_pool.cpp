// The core's own threads: every task once, whatever calls at the same time, errors, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/cpu.h"
#include "core/late_threads.h"
#include "core/parallel.h"
#include "core/status.h"
#include "core/thread_pool.h"
#include "harness.h"

namespace weebill::testing {
namespace {

// True if a region of so many tasks runs each of them once.
bool covers(std::int64_t tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  parallel_for(tasks, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
  for (const std::atomic<int>& count : runs) {
    if (count != 1) return false;
  }
  return true;
}

WEEBILL_TEST(pool_covers_every_task_once) {
  for (int threads : {1, 2, 3, 8, 2}) {
    const ThreadsScope scope(threads);
    WEEBILL_EXPECT(max_threads() == threads);
    for (std::int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 100, 1000}) {
      set_case("threads %d tasks %lld", threads, static_cast<long long>(tasks));
      for (int again = 0; again < 20; ++again) WEEBILL_EXPECT(covers(tasks));
    }
  }
}

// Calls in a row that do without the late threads, and one that takes them.
int avoided(LateThreads& threads) {
  int calls = 0;
  while (threads.avoid()) ++calls;
  return calls;
}

WEEBILL_TEST(late_threads_are_avoided_for_longer_and_longer) {
  using std::chrono::microseconds;
  LateThreads threads;
  WEEBILL_EXPECT(avoided(threads) == 0);
  threads.ended(microseconds(5000), microseconds(20));
  WEEBILL_EXPECT(avoided(threads) == 0);
  for (int calls : {16, 32, 64, 128, 256, 512, 512, 512}) {
    threads.ended(microseconds(5000), microseconds(4000));
    WEEBILL_EXPECT(avoided(threads) == calls);
  }
  // back in time once: forgiven
  threads.ended(microseconds(5000), microseconds(20));
  WEEBILL_EXPECT(avoided(threads) == 0);
  threads.ended(microseconds(5000), microseconds(4000));
  WEEBILL_EXPECT(avoided(threads) == 16);
  // a wait that is short, or short beside the work
  threads.ended(microseconds(100), LateThreads::kWorthIt - microseconds(1));
  WEEBILL_EXPECT(avoided(threads) == 0);
  threads.ended(microseconds(100000), microseconds(4000));
  WEEBILL_EXPECT(avoided(threads) == 0);
}

WEEBILL_TEST(late_threads_are_avoided_by_all_callers_together) {
  LateThreads threads;
  threads.ended(std::chrono::milliseconds(5), std::chrono::milliseconds(4));
  std::atomic<int> calls{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back([&] { calls += avoided(threads); });
  for (std::thread& caller : callers) caller.join();
  WEEBILL_EXPECT(calls == LateThreads::kFirst);
}

WEEBILL_TEST(pool_keeps_its_threads_for_a_call) {
  for (int threads : {1, 2, 3, 8, 2}) {
    const ThreadsScope scope(threads);
    for (std::int64_t tasks : {1, 2, 7, 8, 9, 100'000}) {
      set_case("threads %d tasks %lld", threads, static_cast<long long>(tasks));
      int calls = 0;
      with_threads(threads, [&] {
        ++calls;
        for (int region = 0; region < (tasks > 1000 ? 2 : 40); ++region) {
          WEEBILL_EXPECT(covers(tasks));
        }
        // Threads of a call within a call are those of the outer one.
        with_threads(8, [&] { WEEBILL_EXPECT(covers(tasks)); });
      });
      WEEBILL_EXPECT(calls == 1);
    }
  }
}

// Longer than a thread looks for work: it has to be woken, and the leader as well.
WEEBILL_TEST(pool_wakes_threads_that_sleep) {
  const ThreadsScope scope(5);
  for (int again = 0; again < 6; ++again) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    with_threads(5, [] {
      WEEBILL_EXPECT(covers(7));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      std::atomic<int> slow{0};
      parallel_for(5, [&](std::int64_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        ++slow;
      });
      WEEBILL_EXPECT(slow == 5);
    });
  }
}

WEEBILL_TEST(pool_shares_tasks_out_while_one_is_slow) {
  const ThreadsScope scope(2);
  std::thread::id slow;
  std::atomic<int> others{0};
  with_threads(2, [&] {
    covers(64);  // all are there
    parallel_for(64, [&](std::int64_t task) {
      if (task == 0) {
        slow = std::this_thread::get_id();
        // Until the others have done all the rest, the rest of this thread's range too.
        while (others < 63) std::this_thread::yield();
      } else {
        ++others;
      }
    });
  });
  WEEBILL_EXPECT(others == 63);
  WEEBILL_EXPECT(slow != std::thread::id());
}

WEEBILL_TEST(pool_uses_no_more_threads_than_asked) {
  {
    const ThreadsScope many(8);
    covers(64);
  }
  const ThreadsScope scope(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  parallel_for(64, [&](std::int64_t) {
    std::this_thread::yield();
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  WEEBILL_EXPECT(seen.size() <= 2);
}

WEEBILL_TEST(pool_runs_nested_regions_serially) {
  const ThreadsScope scope(3);
  std::atomic<int> inner{0};
  parallel_for(9, [&](std::int64_t) {
    const ThreadsScope nested(3);
    const std::thread::id here = std::this_thread::get_id();
    parallel_for(5, [&](std::int64_t) {
      if (std::this_thread::get_id() == here) ++inner;
    });
  });
  WEEBILL_EXPECT(inner == 45);
}

WEEBILL_TEST(pool_takes_calls_of_many_threads) {
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&failures] {
      const ThreadsScope scope(3);
      for (int again = 0; again < 200; ++again) {
        if (!covers(7)) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  WEEBILL_EXPECT(failures == 0);
}

WEEBILL_TEST(pool_rethrows_after_all_have_ended) {
  const ThreadsScope scope(4);
  for (int again = 0; again < 50; ++again) {
    std::atomic<int> ended{0};
    bool caught = false;
    try {
      parallel_for(16, [&](std::int64_t task) {
        ++ended;
        if (task % 5 == 0) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    WEEBILL_EXPECT(caught);
    WEEBILL_EXPECT(ended == 16);
    WEEBILL_EXPECT(covers(16));
  }
}

WEEBILL_TEST(pool_is_free_after_a_call_that_throws) {
  const ThreadsScope scope(3);
  for (int again = 0; again < 20; ++again) {
    WEEBILL_EXPECT_THROW(ValueError, "leader", with_threads(3, [] {
                           covers(5);
                           throw ValueError("leader: threads must not matter");
                         }));
    WEEBILL_EXPECT(covers(16));
  }
}

WEEBILL_TEST(lent_threads_serve_until_the_leader_ends) {
  struct Call {
    int regions = 0;
    bool fails = false;
  };
  for (int members : {1, 2, 3, 8}) {
    for (const bool fails : {false, true}) {
      set_case("members %d fails %d", members, fails);
      Call call{0, fails};
      const auto leader = [](void* context, Team* team) {
        auto& mine = *static_cast<Call*>(context);
        for (; mine.regions < 30; ++mine.regions) {
          std::atomic<std::int64_t> sum{0};
          team->run(
              50,
              [](void* to, std::int64_t begin, std::int64_t end) {
                for (; begin < end; ++begin) *static_cast<std::atomic<std::int64_t>*>(to) += begin;
              },
              &sum, 8);
          WEEBILL_EXPECT(sum == 50 * 49 / 2);
        }
        if (mine.fails) throw ValueError("leader: this must reach the caller");
      };
      LentTeam team(members, leader, &call);
      std::vector<std::thread> threads;
      for (int i = members - 1; i > 0; --i) threads.emplace_back([&team, i] { team.member(i); });
      team.member(0);
      for (std::thread& thread : threads) thread.join();
      WEEBILL_EXPECT(call.regions == 30);
      if (fails) {
        WEEBILL_EXPECT_THROW(ValueError, "leader", team.rethrow());
      } else {
        team.rethrow();
      }
    }
  }
}

WEEBILL_TEST(pool_starts_again_after_a_fork) {
  const ThreadsScope scope(4);
  WEEBILL_EXPECT(covers(16));
  const pid_t child = fork();
  if (child == 0) _exit(covers(16) && covers(16) ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  WEEBILL_EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  WEEBILL_EXPECT(covers(16));
}

WEEBILL_TEST(pool_threads_are_set) {
  WEEBILL_EXPECT(usable_cores() >= 1);
  set_pool_threads(3);
  WEEBILL_EXPECT(pool_threads() == 3);
  {
    const ThreadsScope scope(2);
    WEEBILL_EXPECT(max_threads() == 2);
  }
  for (std::int64_t wrong : {-1, kMaxThreads + 1}) {
    WEEBILL_EXPECT_THROW(ValueError, "set_threads", set_pool_threads(wrong));
  }
  WEEBILL_EXPECT(pool_threads() == 3);
  set_pool_threads(0);
  setenv("WEEBILL_NUM_THREADS", "2", 1);
  WEEBILL_EXPECT(pool_threads() == 2);
  set_pool_threads(0);
  for (const char* wrong : {"0", "x", "2x", "-1", "1e3", "99999999999999999999"}) {
    set_case("WEEBILL_NUM_THREADS=%s", wrong);
    setenv("WEEBILL_NUM_THREADS", wrong, 1);
    WEEBILL_EXPECT_THROW(ValueError, "environment", pool_threads());
  }
  unsetenv("WEEBILL_NUM_THREADS");
  WEEBILL_EXPECT(pool_threads() == usable_cores());
}

}  // namespace
}  // namespace weebill::testing
