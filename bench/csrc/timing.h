// The clock, and the rows that the micro-benchmark prints.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#if defined(__x86_64__) && __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#define WEEBILL_CALLGRIND 1
#else
#define WEEBILL_CALLGRIND 0
#endif

namespace weebill::bench {

struct Options {
  std::string isa;     ///< the best of this machine if empty
  std::string filter;  ///< rows whose name contains it
  std::string shapes = WEEBILL_SHAPES_DIR;
  double min_time = 0.1;  ///< seconds per row
  bool json = false;
  std::int64_t once = 0;          ///< exactly so many iterations of each row, nothing measured
  bool count = false;             ///< under callgrind: one dump per row, of its second iteration
  bool layers = false;            ///< separable blocks only, layer by layer
  std::vector<std::string> skip;  ///< rows whose name contains one of them are left out
};

/// One thing to be timed. All work is on one thread and on warm caches, as inside a network.
struct Case {
  std::string group, name;
  double flops = 0;  ///< per iteration, multiply and add counted as two; 0 if that says nothing
  double bytes = 0;  ///< read and written per iteration; 0 if that says nothing
  std::int64_t count = 1;  ///< occurrences in the network, for the group's total
};

struct Row {
  Case what;
  double min_ns = 0, median_ns = 0;
  std::int64_t iterations = 0;
};

/// Runs `body` for at least `min_time` seconds and returns min and median over samples. A sample is
/// as many iterations as take 20 us, a thousand times the clock's resolution.
template <typename Body>
Row time_case(const Case& what, double min_time, Body body) {
  using Clock = std::chrono::steady_clock;
  auto sample_ns = [&body](std::int64_t iterations) {
    const auto start = Clock::now();
    for (std::int64_t i = 0; i < iterations; ++i) body();
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  };
  std::int64_t batch = 1;
  while (sample_ns(batch) < 20e3) batch *= 2;
  Row row{what, 0, 0, 0};
  std::vector<double> samples;
  for (double total = 0; total < min_time * 1e9 || samples.size() < 5;) {
    const double elapsed = sample_ns(batch);
    total += elapsed;
    samples.push_back(elapsed / static_cast<double>(batch));
    row.iterations += batch;
  }
  std::sort(samples.begin(), samples.end());
  row.min_ns = samples.front();
  row.median_ns = samples[samples.size() / 2];
  return row;
}

/// What the log of an emulator shows around a body that is counted: see bench/emulated.py.
void count_begin();
void count_end();

/// Runs `body` once; under callgrind (--collect-atstart=no) its instructions are dumped under
/// `name`.
template <typename Body>
void count_instructions(const std::string& name, Body body) {
#if WEEBILL_CALLGRIND
  CALLGRIND_TOGGLE_COLLECT;
  body();
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS_AT(name.c_str());
#else
  (void)name;
  count_begin();
  body();
  count_end();
#endif
}

/// Collects rows; in `once` mode only runs the bodies.
class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}
  const Options& options() const { return options_; }
  const std::vector<Row>& rows() const { return rows_; }
  bool wants(const Case& what) const {
    const std::string name = what.group + "/" + what.name;
    for (const std::string& part : options_.skip) {
      if (name.find(part) != std::string::npos) return false;
    }
    return name.find(options_.filter) != std::string::npos;
  }
  template <typename Body>
  void run(const Case& what, Body body) {
    if (!wants(what)) return;
    if (options_.count) {
      body();
      count_instructions(what.group + "/" + what.name, body);
      rows_.push_back({what, 0, 0, 1});
    } else if (options_.once > 0) {
      for (std::int64_t i = 0; i < options_.once; ++i) body();
      rows_.push_back({what, 0, 0, options_.once});
    } else {
      rows_.push_back(time_case(what, options_.min_time, body));
      if (!options_.json) print(rows_.back());
    }
  }
  /// GFLOP/s that the rows' shares refer to.
  void set_peak(double gflops) { peak_ = gflops; }
  double peak() const { return peak_; }
  double share(const Row& row) const {
    return peak_ > 0 && row.min_ns > 0 ? row.what.flops / row.min_ns / peak_ : 0;
  }

 private:
  void print(const Row& row) const;
  Options options_;
  std::vector<Row> rows_;
  double peak_ = 0;
};

/// Memory on cache lines, like the scratch memory and the records of the library.
template <typename T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <typename U>
  explicit LineAllocator(const LineAllocator<U>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* data, std::size_t) { ::operator delete(data, std::align_val_t(64)); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <typename T>
using Numbers = std::vector<T, LineAllocator<T>>;
using Floats = Numbers<float>;

inline void put(float value, float& to) { to = value; }
inline void put(float value, Half& to) { to = to_half(value); }

/// Deterministic data in [-1, 1), so that instruction counts repeat.
template <typename T = float>
Numbers<T> numbers(std::int64_t count) {
  Numbers<T> values(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (T& value : values) {
    state = state * 1664525 + 1013904223;
    put(static_cast<float>(state >> 8) * 0x1p-23f - 1, value);
  }
  return values;
}

/// Keeps the compiler from dropping a result.
inline void keep(float value) { asm volatile("" : : "g"(value) : "memory"); }

void bench_kernels(Bench& bench);
void bench_blocks(Bench& bench);

}  // namespace weebill::bench
