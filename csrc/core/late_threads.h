// Whether to take somebody else's threads for a call, where calls wait for the last of them.
//
// Such threads (libgomp's) are best while all of them get a core at once: they are awake, and stay
// out of nobody's way. Once another process has one of the cores, every call waits until the
// scheduler lets the thread there begin, milliseconds for a few that it would have done: the core's
// own pool, which waits for nobody, then takes the next calls, and after them one tries again.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>

namespace weebill {

class LateThreads {
 public:
  using Duration = std::chrono::steady_clock::duration;

  /// Whether the next call should do without them.
  bool avoid() {
    int left = left_.load(std::memory_order_relaxed);
    while (left > 0 && !left_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) {
    }
    return left > 0;
  }

  /// A call on them took `work`, and then waited so long for the last of them.
  void ended(Duration work, Duration waited) {
    if (waited < kWorthIt || waited < work / 8) {
      patience_.store(kFirst, std::memory_order_relaxed);
      return;
    }
    const int calls = patience_.load(std::memory_order_relaxed);
    patience_.store(std::min(2 * calls, kMost), std::memory_order_relaxed);
    left_.store(calls, std::memory_order_relaxed);
  }

  static constexpr std::chrono::microseconds kWorthIt{200};
  static constexpr int kFirst = 16, kMost = 512;  ///< calls

 private:
  std::atomic<int> left_{0};           // calls that do without them
  std::atomic<int> patience_{kFirst};  // calls that the next late one costs them
};

}  // namespace weebill
