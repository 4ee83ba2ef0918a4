#include "core/profile.h"

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "core/drivers.h"

namespace weebill {
namespace {

using Clock = std::chrono::steady_clock;

double nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

struct Recorder {
  const KernelTable& kernels;  // that do the work
  std::vector<KernelTime> times;

  void add(const KernelTime& call) {
    for (KernelTime& time : times) {
      if (time.kernel == call.kernel && time.k == call.k && time.n == call.n) {
        time.calls += call.calls;
        time.multiply_adds += call.multiply_adds;
        time.nanoseconds += call.nanoseconds;
        return;
      }
    }
    times.push_back(call);
  }
};

thread_local Recorder* recorder = nullptr;

// What a call does, as far as its arguments tell.
template <typename Args>
KernelTime describe(const char* kernel, const Args& /*args*/) {
  return {kernel, 0, 0, 1, 0, 0};
}

KernelTime describe(const char* kernel, const PointwiseArgs& a) {
  return {kernel, a.k, a.n, 1, a.m * a.k * a.n, 0};
}

KernelTime describe(const char* kernel, const DepthwiseArgs& a) {
  const std::int64_t width = std::string(kernel).find("_k5") == std::string::npos ? 3 : 5;
  return {kernel, 0, 0, 1, a.rows * width * a.columns * a.channels, 0};
}

KernelTime describe(const char* kernel, const DepthwiseAnyArgs& a) {
  return {kernel, 0, 0, 1, a.common.rows * a.taps * a.common.columns * a.common.channels, 0};
}

enum Index : std::size_t {
#define WEEBILL_KERNEL(name, Args, summary) k_##name,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
};

template <Index kIndex, auto kKernel, typename Args>
void timed(const Args& args) {
  Recorder& mine = *recorder;
  KernelTime call = describe(kernel_list()[kIndex].name, args);
  const auto start = Clock::now();
  (mine.kernels.*kKernel)(args);
  call.nanoseconds = nanoseconds_since(start);
  mine.add(call);
}

constexpr KernelTable kTimed = {
#define WEEBILL_KERNEL(name, Args, summary) &timed<k_##name, &KernelTable::name, Args>,
#include "core/kernels.def"
#undef WEEBILL_KERNEL
    /*leaves_zeros_out=*/false,
};

void nothing(const ActivateArgs& /*args*/) {}

// What timing a call adds: to the call itself, and around it.
struct Overhead {
  double inside, whole;
};

Overhead overhead() {
  KernelTable idle{};
  idle.activate_f32 = &nothing;
  Overhead least{1e9, 1e9};
  for (int attempt = 0; attempt < 20; ++attempt) {
    constexpr int kCalls = 100;
    Recorder mine{idle, {}};
    recorder = &mine;
    const auto start = Clock::now();
    for (int call = 0; call < kCalls; ++call) kTimed.activate_f32(ActivateArgs{});
    const double whole = nanoseconds_since(start);
    recorder = nullptr;
    least.whole = std::min(least.whole, whole / kCalls);
    least.inside = std::min(least.inside, mine.times.front().nanoseconds / kCalls);
  }
  return least;
}

}  // namespace

Profile profile(const std::string& op, const TensorView& x, Packed records, const Output& output) {
  static const Overhead lost = overhead();
  Recorder mine{kernels(), {}};
  recorder = &mine;
  const auto start = Clock::now();
  KernelTable timed = kTimed;
  timed.leaves_zeros_out = mine.kernels.leaves_zeros_out;
  try {
    run_with(Run{timed, machine_caches(), 1}, op, x, records, output);
  } catch (...) {
    recorder = nullptr;
    throw;
  }
  Profile result{nanoseconds_since(start), {}};
  recorder = nullptr;
  for (KernelTime& time : mine.times) {
    const auto calls = static_cast<double>(time.calls);
    result.nanoseconds -= calls * lost.whole;
    time.nanoseconds = std::max(0.0, time.nanoseconds - calls * lost.inside);
  }
  result.kernels = std::move(mine.times);
  return result;
}

}  // namespace weebill
