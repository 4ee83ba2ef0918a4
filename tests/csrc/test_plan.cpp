// Invariants of the plans: pure functions, so many problems can be tried at no cost.
#include <algorithm>
#include <utility>

#include "core/plan.h"
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

constexpr std::int64_t kFloat = sizeof(float);

Caches any_caches() {
  return {rng().pick(Sizes{16 << 10, 32 << 10, 48 << 10, 64 << 10}),
          rng().pick(Sizes{128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 16 << 20})};
}

SeparableProblem any_problem() {
  SeparableProblem p{};
  for (;;) {
    const AnyWindow any = any_window();
    p.window = any.window;
    p.window.same = 0;
    p.h = rng().pick(Sizes{1, 2, 3, 7, 14, 15, 28, 56, 112, 300});
    p.w = rng().pick(Sizes{1, 2, 3, 7, 14, 15, 28, 56, 112, 300});
    const reference::Geometry g =
        reference::geometry(p.window, any.kernel_h, any.kernel_w, {1, 1, p.h, p.w});
    p.oh = g.vertical.size;
    p.ow = g.horizontal.size;
    if (p.oh > 0 && p.ow > 0) break;
  }
  p.has_expand = rng().coin();
  p.has_se = rng().coin();
  p.has_project = rng().coin();
  p.c_in = rng().pick(kChannels);
  p.c_mid = p.has_expand ? p.c_in * rng().integer(1, 6) : p.c_in;
  p.c_out = p.has_project ? rng().pick(kChannels) : p.c_mid;
  p.leaves_zeros_out = rng().coin();
  p.streams = rng().coin();
  return p;
}

WEEBILL_TEST(plan_separable_invariants) {
  const int problems = options().quick ? 2000 : 20000;
  for (int i = 0; i < problems; ++i) {
    const SeparableProblem p = any_problem();
    const Caches caches = any_caches();
    const int threads = static_cast<int>(rng().integer(1, 64));
    const FusionPolicy policy = static_cast<FusionPolicy>(rng().integer(0, 2));
    set_case(
        "c_in %lld c_mid %lld c_out %lld %lldx%lld -> %lldx%lld expand %d se %d project %d "
        "%s l2 %lld threads %d policy %d",
        static_cast<long long>(p.c_in), static_cast<long long>(p.c_mid),
        static_cast<long long>(p.c_out), static_cast<long long>(p.h), static_cast<long long>(p.w),
        static_cast<long long>(p.oh), static_cast<long long>(p.ow), p.has_expand, p.has_se,
        p.has_project, window_text(p.window, p.window.kernel_h, p.window.kernel_w).c_str(),
        static_cast<long long>(caches.l2_bytes), threads, static_cast<int>(policy));
    const SeparablePlan plan = plan_separable(p, caches, threads, policy);
    WEEBILL_EXPECT(plan.reason != nullptr && *plan.reason != '\0');

    // Row fusion only where nothing needs the whole image first, and as asked.
    const bool possible = p.has_project && !p.has_se;
    WEEBILL_EXPECT(possible || !plan.row_fusion);
    if (policy == FusionPolicy::kRows) WEEBILL_EXPECT(plan.row_fusion == possible);
    if (policy == FusionPolicy::kChannels) WEEBILL_EXPECT(!plan.row_fusion);

    WEEBILL_EXPECT(plan.threads == 1 || !plan.room_for_weights);
    WEEBILL_EXPECT(plan.bands >= 1 && plan.bands <= p.oh);
    WEEBILL_EXPECT(plan.strip_rows >= 1 && plan.strip_rows <= p.oh);
    // Chunks begin at whole blocks of weights.
    WEEBILL_EXPECT(plan.chunk >= kBlock && plan.chunk % kBlock == 0);
    WEEBILL_EXPECT(plan.chunk < p.c_mid + kBlock);
    WEEBILL_EXPECT(plan.columns >= 1 && p.ow % plan.columns == 0);
    if (plan.bare) WEEBILL_EXPECT(p.leaves_zeros_out && !p.has_expand && !plan.padded);

    // The ring holds what one strip reads, and is as wide as the windows reach.
    const Window& w = p.window;
    const std::int64_t strip_input =
        (plan.strip_rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1;
    const std::int64_t reach = (p.ow - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1;
    if (p.has_expand) {
      WEEBILL_EXPECT(plan.ring_rows >= std::min(strip_input, p.h));
      WEEBILL_EXPECT(plan.ring_columns >= reach);
      WEEBILL_EXPECT(plan.ring_columns >= w.pad_left + p.w);
    }
    // So does that of a depthwise convolution alone, for one output row.
    if (plan.padded) {
      WEEBILL_EXPECT(!p.has_expand && !p.has_project);
      const std::int64_t under = (w.kernel_h - 1) * w.dilation_h + 1;
      WEEBILL_EXPECT(plan.ring_rows == std::min<std::int64_t>(under, p.h));
      WEEBILL_EXPECT(plan.ring_columns >= std::max(reach, w.pad_left + p.w));
    }
    // It stays in the cache, unless one row at a time is too much already.
    if (plan.row_fusion && plan.strip_rows > 1) {
      const std::int64_t ring = plan.ring_rows * plan.ring_columns * p.c_mid * kFloat;
      WEEBILL_EXPECT(ring <= caches.l2_bytes);
    }
  }
}

// Two threads take a small block in one region, each a band of rows, unless the rows between the
// bands are too many of them.
WEEBILL_TEST(plan_separable_regions) {
  auto basic_unit = [](std::int64_t size, std::int64_t channels) {
    SeparableProblem p{};
    p.c_in = p.c_mid = p.c_out = channels;
    p.h = p.w = p.oh = p.ow = size;
    p.window.kernel_h = p.window.kernel_w = 3;
    p.window.pad_top = p.window.pad_left = p.window.pad_bottom = p.window.pad_right = 1;
    p.has_expand = p.has_project = true;
    return p;
  };
  const Caches caches = {32 << 10, 1 << 20};
  struct Case {
    std::int64_t size, channels;
    bool by_rows;
  };
  for (const Case& c : {Case{28, 24, true}, {14, 116, true}, {7, 96, false}}) {
    const SeparableProblem p = basic_unit(c.size, c.channels);
    set_case("%lld channels", static_cast<long long>(p.c_in));
    WEEBILL_EXPECT(!plan_separable(p, caches, 1, FusionPolicy::kAuto).row_fusion);
    const SeparablePlan plan = plan_separable(p, caches, 2, FusionPolicy::kAuto);
    WEEBILL_EXPECT(plan.threads == 2);
    WEEBILL_EXPECT(plan.row_fusion == c.by_rows);
    if (c.by_rows) WEEBILL_EXPECT(plan.bands == 2);
  }
}

// A block without an expansion goes by strips where its tensors do not fit the second cache
// together, unless the weights that each strip reads again would take much of that cache.
WEEBILL_TEST(plan_separable_strips) {
  const Caches caches = {48 << 10, 2 << 20};
  struct Case {
    std::int64_t size, channels, c_out;
    bool by_rows;
  };
  for (const Case& c : {Case{112, 16, 16, true},
                        {112, 32, 16, true},
                        {28, 256, 256, true},
                        {28, 144, 32, false},
                        {14, 576, 160, false},
                        {28, 256, 1024, false}}) {
    SeparableProblem p{};
    p.c_in = p.c_mid = c.channels;
    p.c_out = c.c_out;
    p.h = p.w = p.oh = p.ow = c.size;
    p.window.kernel_h = p.window.kernel_w = 3;
    p.window.pad_top = p.window.pad_left = p.window.pad_bottom = p.window.pad_right = 1;
    p.has_project = true;
    set_case("%lld channels", static_cast<long long>(c.channels));
    const SeparablePlan plan = plan_separable(p, caches, 1, FusionPolicy::kAuto);
    WEEBILL_EXPECT(plan.row_fusion == c.by_rows);
    if (c.by_rows) {
      const std::int64_t strip = plan.strip_rows * p.ow * p.c_mid * kFloat;
      WEEBILL_EXPECT(strip <= std::max(caches.l2_bytes / 8, p.c_mid * p.c_out * kFloat));
    }
  }
}

// Rows that kernels take from the image itself, not from the ring, and the order in which a
// depthwise convolution alone makes them, where the processor foresees tiles.
WEEBILL_TEST(plan_separable_bare) {
  Caches caches = {48 << 10, 2 << 20};
  caches.foresees_tiles = true;
  struct Case {
    std::int64_t size, channels;
    std::int32_t kernel;
    std::int64_t chunk, columns;
  };
  for (const Case& c : {Case{56, 72, 3, 80, 14},    // every other pixel begins in a line's middle
                        Case{56, 128, 3, 128, 14},  // whole pixels, down the image
                        Case{14, 672, 3, 128, 14},  // channels of an image in the second cache
                        Case{28, 240, 5, 32, 28},   // the same, of which few rows fit the first
                        Case{28, 256, 3, 256, 14}}) {  // too little is saved
    SeparableProblem p{};
    p.c_in = p.c_mid = p.c_out = c.channels;
    p.h = p.w = p.oh = p.ow = c.size;
    p.window.kernel_h = p.window.kernel_w = c.kernel;
    p.window.pad_top = p.window.pad_left = p.window.pad_bottom = p.window.pad_right = c.kernel / 2;
    p.streams = true;
    set_case("%lld channels of %lld", static_cast<long long>(c.channels),
             static_cast<long long>(c.size));
    WEEBILL_EXPECT(!plan_separable(p, caches, 1, FusionPolicy::kAuto).bare);
    p.leaves_zeros_out = true;
    const SeparablePlan plan = plan_separable(p, caches, 1, FusionPolicy::kAuto);
    WEEBILL_EXPECT(plan.bare && !plan.padded && plan.ring_rows == 0);
    WEEBILL_EXPECT(plan.chunk == c.chunk);
    WEEBILL_EXPECT(plan.columns == c.columns);
    p.ow = p.w = c.size - 1;  // no tiles that fill a row
    WEEBILL_EXPECT(!plan_separable(p, caches, 1, FusionPolicy::kAuto).bare);
  }
}

// Channels are shared out in blocks of 16: rows, where those do not divide by the threads.
WEEBILL_TEST(plan_shares_channels_or_rows) {
  SeparableProblem p{};
  p.has_expand = p.has_project = true;
  p.window.kernel_h = p.window.kernel_w = 3;
  p.window.pad_top = p.window.pad_left = p.window.pad_bottom = p.window.pad_right = 1;
  p.h = p.w = p.oh = p.ow = 28;
  const Caches caches = {32 << 10, 512 << 10};
  for (const auto& [channels, bands] :
       {std::pair<std::int64_t, std::int64_t>{24, 2}, {32, 1}, {48, 2}, {96, 1}, {16, 2}}) {
    set_case("channels %lld", static_cast<long long>(channels));
    p.c_in = p.c_mid = p.c_out = channels;
    const SeparablePlan plan = plan_separable(p, caches, 2, FusionPolicy::kChannels);
    WEEBILL_EXPECT(plan.bands == bands);
    WEEBILL_EXPECT(plan.parts * bands % 2 == 0);
  }
}

// Units that the slowest of the threads has to do.
std::int64_t slowest(std::int64_t units, std::int64_t tasks, std::int64_t threads) {
  return (tasks + threads - 1) / threads * ((units + tasks - 1) / tasks);
}

WEEBILL_TEST(plan_tasks_invariants) {
  for (int i = 0; i < 5000; ++i) {
    const std::int64_t units = rng().integer(0, 300), work = rng().integer(0, 20'000'000);
    const int threads = static_cast<int>(rng().integer(1, 64));
    set_case("units %lld work %lld threads %d", static_cast<long long>(units),
             static_cast<long long>(work), threads);
    const std::int64_t tasks = plan_tasks(units, work, threads);
    WEEBILL_EXPECT(tasks >= 1 && tasks <= std::max<std::int64_t>(units, 1));
    WEEBILL_EXPECT(tasks <= 4 * threads);
    if (threads == 1) WEEBILL_EXPECT(tasks == 1);
    // Never more for the slowest than with a task per thread.
    const std::int64_t plain = std::clamp<std::int64_t>(units, 1, threads);
    WEEBILL_EXPECT(slowest(units, tasks, threads) <= slowest(units, plain, threads));
  }
  WEEBILL_EXPECT(plan_tasks(6, 1'000'000, 2) == 2);  // 4 or more: 3 units each, but too small
  WEEBILL_EXPECT(plan_tasks(6, 2'000'000, 2) == 6);
  WEEBILL_EXPECT(plan_tasks(9, 10'000'000, 2) == 2);  // 5 units for one of them, whatever the cut
  WEEBILL_EXPECT(plan_tasks(112, 10'000'000, 2) == 8);
}

WEEBILL_TEST(plan_product_covers_it) {
  for (int i = 0; i < 5000; ++i) {
    const std::int64_t m = rng().integer(0, 4000), k = rng().integer(1, 1000);
    const std::int64_t n = rng().integer(1, 1300);
    const int threads = static_cast<int>(rng().integer(1, 64));
    const bool scaled = rng().integer(0, 1) != 0;
    set_case("m %lld k %lld n %lld scaled %d threads %d", static_cast<long long>(m),
             static_cast<long long>(k), static_cast<long long>(n), scaled, threads);
    const ProductPlan plan = plan_product(m, k, n, scaled, threads);
    const std::int64_t whole = plan.by_channels ? n : m;
    WEEBILL_EXPECT(plan.unit >= 1 && plan.tasks >= 1);
    WEEBILL_EXPECT((plan.tasks - 1) * plan.unit < std::max<std::int64_t>(whole, 1));
    if (plan.by_channels) {
      WEEBILL_EXPECT(n > m && plan.unit % kBlock == 0);
      if (scaled) WEEBILL_EXPECT(plan.tasks <= threads);
    }
    if (plan.scale_weights) WEEBILL_EXPECT(scaled && !plan.by_channels && plan.tasks <= threads);
    WEEBILL_EXPECT(plan.scale_weights == plan_product(m, k, n, scaled, 1).scale_weights);
  }
  WEEBILL_EXPECT(plan_product(784, 120, 40, true, 1).scale_weights);
  WEEBILL_EXPECT(!plan_product(784, 120, 40, false, 1).scale_weights);
  WEEBILL_EXPECT(!plan_product(196, 672, 112, true, 1).scale_weights);  // too many weights
  WEEBILL_EXPECT(!plan_product(4, 16, 24, true, 1).scale_weights);      // more than pixels
  // 96 channels are 3 pairs of blocks: 3 blocks each are less than 2 pairs.
  WEEBILL_EXPECT(plan_product(49, 576, 96, true, 2).unit == kBlock);
  WEEBILL_EXPECT(plan_product(49, 960, 160, true, 3).unit == 2 * kBlock);
}

WEEBILL_TEST(plan_m_block_invariants) {
  for (int i = 0; i < 5000; ++i) {
    const Caches caches = any_caches();
    const std::int64_t m = rng().integer(0, 13000), k = rng().integer(1, 2000);
    set_case("m %lld k %lld", static_cast<long long>(m), static_cast<long long>(k));
    const std::int64_t block = plan_m_block(m, k, rng().coin(), caches);
    WEEBILL_EXPECT(block >= 1 && block <= std::max<std::int64_t>(m, 1));
    // Blocks of equal size: the last is not a small rest.
    if (m > 0) {
      const std::int64_t blocks = (m + block - 1) / block;
      WEEBILL_EXPECT(blocks * block - m < blocks);
    }
  }
}

// Of calls to come: where the last cache is slow, and then less than half of the second one.
WEEBILL_TEST(plan_reach_invariants) {
  Caches caches = any_caches();
  WEEBILL_EXPECT(plan_reach(caches) == 0);
  caches.slow_l3 = true;
  WEEBILL_EXPECT(plan_reach(caches) > 0 && plan_reach(caches) * kFloat < caches.l2_bytes / 2);
}

WEEBILL_TEST(plan_threads_invariants) {
  int before = 1;
  for (std::int64_t work = 0; work < 100'000'000; work += work / 8 + 1000) {
    set_case("work %lld", static_cast<long long>(work));
    const int threads = plan_threads(work, 16);
    WEEBILL_EXPECT(threads >= before && threads <= 16);
    WEEBILL_EXPECT(plan_threads(work, 1) == 1);
    before = threads;
  }
  WEEBILL_EXPECT(before == 16);
}

WEEBILL_TEST(plan_pooled_invariants) {
  const int problems = options().quick ? 2000 : 20000;
  for (int i = 0; i < problems; ++i) {
    const AnyWindow any = any_window();
    Window w = any.window;
    w.same = 0;
    w.kernel_h = static_cast<std::int32_t>(any.kernel_h);
    w.kernel_w = static_cast<std::int32_t>(any.kernel_w);
    const std::int64_t h = rng().pick(Sizes{1, 2, 7, 56, 112, 500});
    const std::int64_t row = rng().pick(Sizes{1, 24, 24 * 112, 64 * 1000});
    const reference::Geometry g =
        reference::geometry(w, w.kernel_h, w.kernel_w, {1, 1, h, w.kernel_w});
    const std::int64_t oh = g.vertical.size;
    if (oh <= 0) continue;
    const Caches caches = any_caches();
    const int threads = static_cast<int>(rng().integer(1, 64));
    set_case("h %lld row %lld oh %lld %s l2 %lld threads %d", static_cast<long long>(h),
             static_cast<long long>(row), static_cast<long long>(oh),
             window_text(w, w.kernel_h, w.kernel_w).c_str(),
             static_cast<long long>(caches.l2_bytes), threads);
    for (FusionPolicy policy :
         {FusionPolicy::kAuto, FusionPolicy::kRows, FusionPolicy::kChannels}) {
      const PooledPlan plan = plan_pooled(w, h, row, oh, caches, threads, policy);
      WEEBILL_EXPECT(*plan.reason != '\0');
      WEEBILL_EXPECT(policy == FusionPolicy::kAuto ||
                     plan.fused == (policy == FusionPolicy::kRows));
      WEEBILL_EXPECT(1 <= plan.bands && plan.bands <= std::min<std::int64_t>(threads, oh));
      WEEBILL_EXPECT(1 <= plan.strip_rows && plan.strip_rows <= oh);
      // The ring holds every row under a strip, and fits where it was the plan's choice.
      const std::int64_t under =
          (plan.strip_rows - 1) * w.stride_h + std::int64_t{w.kernel_h - 1} * w.dilation_h + 1;
      WEEBILL_EXPECT(plan.ring_rows == std::min(under, h));
      if (policy == FusionPolicy::kAuto && plan.fused) {
        WEEBILL_EXPECT(plan.ring_rows * row * kFloat <= caches.l2_bytes / 2);
        WEEBILL_EXPECT(h * row * kFloat > caches.l2_bytes / 2);
      }
    }
  }
}

WEEBILL_TEST(plan_call_invariants) {
  for (int i = 0; i < 5000; ++i) {
    const std::int64_t work = rng().integer(0, 50'000'000), images = rng().integer(0, 20);
    const int threads = static_cast<int>(rng().integer(1, 16));
    set_case("work %lld images %lld threads %d", static_cast<long long>(work),
             static_cast<long long>(images), threads);
    const CallPlan plan = plan_call(work, images, threads);
    WEEBILL_EXPECT(plan.threads >= 1 && plan.threads <= threads);
    WEEBILL_EXPECT(plan_call(2 * work, images, threads).threads >= plan.threads);
    // Whole images only where none of the threads is without one.
    if (plan.images_in_parallel) WEEBILL_EXPECT(images >= plan.threads && plan.threads > 1);
    WEEBILL_EXPECT(plan.threads_of_image() == (plan.images_in_parallel ? 1 : plan.threads));
  }
  WEEBILL_EXPECT(plan_call(1 << 30, 1, 4).threads == 4);
  WEEBILL_EXPECT(plan_call(1 << 30, 4, 4).images_in_parallel);
  WEEBILL_EXPECT(!plan_call(1 << 30, 3, 4).images_in_parallel);
}

}  // namespace
}  // namespace weebill::testing
