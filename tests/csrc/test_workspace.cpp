// Memory: every allocation of a run may fail, which is std::bad_alloc and nothing worse; scratch
// memory is kept from call to call and given back with its thread.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <thread>

#include "record_cases.h"

namespace {

std::atomic<std::int64_t> live_allocations{0};
// Of this thread: allocations so far, aligned ones among them, and the one that is to fail.
thread_local std::int64_t allocations = 0;
thread_local std::int64_t aligned_allocations = 0;
thread_local std::int64_t failing = -1;

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (allocations++ == failing) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
  ++live_allocations;
  return memory;
}

void release(void* memory) {
  if (memory != nullptr) --live_allocations;
  std::free(memory);
}

}  // namespace

// Replaced for the whole process, the core's shared library included.
void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++aligned_allocations;
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

namespace weebill::testing {
namespace {

struct Case {
  const char* name;
  Bytes record;
  Input input;
};

std::vector<Case> cases(Weights& weights) {
  std::vector<Case> all;
  Conv2dSpec conv;
  conv.weight = weights.make("weight", {20, 3, 3, 3});
  conv.window.stride_h = conv.window.stride_w = 2;
  conv.window.same = 1;
  all.push_back({"conv2d", pack(conv), make_input({2, 3, 17, 16}, Layout::kNchw, false)});
  SeparableSpec block;
  block.expand_weight = weights.make("expand_weight", {40, 8, 1, 1});
  block.depthwise_weight = weights.make("depthwise_weight", {40, 1, 5, 5});
  block.window.same = 1;
  block.project_weight = weights.make("project_weight", {8, 40, 1, 1});
  block.residual = true;
  all.push_back({"separable", pack(block), make_input({1, 8, 12, 11}, Layout::kNchw, false)});
  block.se_reduce_weight = weights.make("se_reduce_weight", {10, 40, 1, 1});
  block.se_expand_weight = weights.make("se_expand_weight", {40, 10, 1, 1});
  all.push_back(
      {"separable with SE", pack(block), make_input({2, 8, 12, 11}, Layout::kSparse, false)});
  SeparableSpec tall;  // more kernel rows than fit the stack's table of rows
  tall.depthwise_weight = weights.make("depthwise_weight", {5, 1, 19, 3});
  tall.window.same = 1;
  all.push_back({"tall depthwise", pack(tall), make_input({1, 5, 20, 9}, Layout::kNhwc, false)});
  SqueezeExciteSpec se;
  se.reduce_weight = weights.make("reduce_weight", {2, 8, 1, 1});
  se.expand_weight = weights.make("expand_weight", {8, 2, 1, 1});
  all.push_back({"squeeze_excite", pack(se), make_input({2, 8, 6, 5}, Layout::kNchw, false)});
  GlobalPoolSpec pool;
  pool.channels = 8;
  all.push_back({"pool", pack(pool), make_input({2, 8, 6, 5}, Layout::kNchw, false)});
  return all;
}

/// A thread has a workspace of its own, empty at first.
void in_new_thread(const std::function<void()>& body) { std::thread(body).join(); }

struct Runner {
  explicit Runner(const Case& c) : blob("records", c.record, Flush::kEnd, 64), view(c.input.view) {
    view.data = c.input.storage.data();
    const Shape shape = output_shape("test", {view.n, view.c, view.h, view.w}, packed());
    y.resize(static_cast<std::size_t>(shape.n * shape.c * shape.h * shape.w));
  }
  Packed packed() const { return {blob.data(), blob.size()}; }
  void once() { run("test", view, packed(), y.data()); }
  Guarded<std::byte> blob;
  TensorView view;
  std::vector<float> y;
};

WEEBILL_TEST(workspace_any_allocation_may_fail) {
  Weights weights(false);
  for (const Case& c : cases(weights)) {
    Runner runner(c);
    std::int64_t needed = 0;
    runner.once();  // what is made once per process is made now
    in_new_thread([&] {
      const std::int64_t before = allocations;
      runner.once();
      needed = allocations - before;
    });
    const std::vector<float> expected = runner.y;
    WEEBILL_EXPECT(needed > 0);
    for (std::int64_t which = 0; which < needed; ++which) {
      set_case("%s: allocation %lld of %lld fails", c.name, static_cast<long long>(which),
               static_cast<long long>(needed));
      bool same = false, threw = false;
      const std::int64_t live_before = live_allocations;
      in_new_thread([&] {
        failing = allocations + which;
        try {
          runner.once();
        } catch (const std::bad_alloc&) {
          threw = true;
        }
        failing = -1;
        // The thread is as good as before.
        std::fill(runner.y.begin(), runner.y.end(), NAN);
        runner.once();
        same = std::memcmp(runner.y.data(), expected.data(), expected.size() * sizeof(float)) == 0;
      });
      WEEBILL_EXPECT(same);
      WEEBILL_EXPECT(live_allocations == live_before);
      // The very last may be one that the core can do without: making one chunk of several.
      WEEBILL_EXPECT(threw || which == needed - 1);
    }
  }
}

WEEBILL_TEST(workspace_is_kept) {
  Weights weights(false);
  for (const Case& c : cases(weights)) {
    set_case("%s", c.name);
    Runner runner(c);
    std::int64_t later = 0;
    const std::int64_t live_before = live_allocations;
    in_new_thread([&] {
      runner.once();
      const std::int64_t before = aligned_allocations;
      for (int repeat = 0; repeat < 3; ++repeat) runner.once();
      later = aligned_allocations - before;
    });
    WEEBILL_EXPECT(later == 0);
    WEEBILL_EXPECT(live_allocations == live_before);
  }
}

}  // namespace
}  // namespace weebill::testing
