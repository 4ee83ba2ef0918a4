#include "core/plan.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>

#include "core/cpu.h"
#include "core/record.h"
#include "kernels/args.h"

namespace weebill {
namespace {

std::atomic<FusionPolicy> policy_in_use{FusionPolicy::kAuto};
std::optional<Caches> assumed_caches;

// Input rows under `rows` output rows.
std::int64_t input_rows(const Window& w, std::int64_t rows) {
  return (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1;
}

// What handing a thread of a team its part and waiting for it costs, half a microsecond, in
// multiply-adds.
constexpr std::int64_t kRegion = 30'000;

// What a block's second region costs with what comes of it, in multiply-adds: threads wait for each
// other once more, and each reads half of the intermediate from another core's cache.
constexpr std::int64_t kSecondRegion = 120'000;

// Work below which a task is not cut further: some 5 us, in which a thread that was late has begun.
constexpr std::int64_t kTask = 200'000;
constexpr std::int64_t kTasksPerThread = 4;

std::int64_t most_tasks(std::int64_t multiply_adds, std::int64_t threads) {
  if (threads <= 1) return 1;  // nobody to hand one to
  return std::clamp(multiply_adds / kTask, threads, kTasksPerThread * threads);
}

// How channels are shared out: parts of them, and bands of rows where the parts are too few. Parts
// are whole blocks, so 24 or 48 channels do not divide by two; bands recompute rows of the
// expansion. The least work of the slowest thread decides, then fewer bands, then more parts. That
// work is returned.
std::int64_t share_channels(const SeparableProblem& p, std::int64_t threads, SeparablePlan& plan) {
  const Window& w = p.window;
  const std::int64_t blocks = ceil_div(p.c_mid, kBlock);
  const std::int64_t taps = std::int64_t{w.kernel_h} * w.kernel_w;
  const std::int64_t most = most_tasks(multiply_adds(p), threads);
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t bands = 1; bands <= std::min(p.oh, threads); ++bands) {
    const std::int64_t rows = ceil_div(p.oh, bands);
    const std::int64_t expanded =
        p.has_expand ? std::min(input_rows(w, rows), p.h) * p.w * p.c_in : 0;
    for (std::int64_t share = 1; share <= kTasksPerThread; ++share) {
      const std::int64_t parts = std::min(ceil_div(share * threads, bands), blocks);
      if (share > 1 && parts * bands > most) break;
      const std::int64_t channels = std::min(ceil_div(blocks, parts) * kBlock, p.c_mid);
      const std::int64_t work =
          ceil_div(parts * bands, threads) * channels * (expanded + rows * p.ow * taps);
      if (work < least || (work == least && bands == plan.bands)) {
        least = work;
        plan.bands = bands;
        plan.parts = parts;
      }
    }
  }
  return least;
}

// Bands of rows for row fusion: one per thread, or more where the rows of the expansion that two of
// them both compute are few.
std::int64_t share_rows(const SeparableProblem& p, int threads) {
  const std::int64_t fine = plan_tasks(p.oh, multiply_adds(p), threads);
  const std::int64_t both = input_rows(p.window, 1) - p.window.stride_h;
  if (!p.has_expand || both * (fine - 1) * 32 <= p.h) return fine;
  return std::min<std::int64_t>(threads, p.oh);
}

// Whether one region, in which each thread has a band of rows and computes those between two bands
// once more, is less work for the slowest than channel fusion's two, of which the first one takes
// it `shared`.
bool one_region_pays(const SeparableProblem& p, std::int64_t threads, std::int64_t shared) {
  if (threads == 1 || p.oh < threads) return false;
  const Window& w = p.window;
  const std::int64_t taps = std::int64_t{w.kernel_h} * w.kernel_w;
  std::int64_t by_rows = 0;
  for (std::int64_t band = 0; band < threads; ++band) {
    const std::int64_t first = band * p.oh / threads, last = (band + 1) * p.oh / threads;
    const std::int64_t top = std::max<std::int64_t>(first * w.stride_h - w.pad_top, 0);
    const std::int64_t bottom =
        std::min(first * w.stride_h - w.pad_top + input_rows(w, last - first), p.h);
    const std::int64_t expanded = p.has_expand ? (bottom - top) * p.w * p.c_in : 0;
    by_rows = std::max(by_rows, p.c_mid * (expanded + (last - first) * p.ow * (taps + p.c_out)));
  }
  const std::int64_t by_channels = shared + ceil_div(p.oh * p.ow * p.c_mid * p.c_out, threads);
  return by_rows <= by_channels + kSecondRegion;
}

// Of the widest tiles.
constexpr std::int64_t kTileColumns = 14;

// SeparablePlan::bare: as DepthwiseArgs::zeros_left has it. Without copying rows to a ring, or
// going tap by tap at their ends, batches of 14 x 14 x 480 take 0.52 ms for 0.66.
bool is_bare(const SeparableProblem& p) {
  const Window& w = p.window;
  const std::int64_t left = w.pad_left, right = zeros_right(p);
  return p.leaves_zeros_out && !p.has_expand && has_depthwise_tiles(w) &&
         (p.ow % kTileColumns == 0 || p.ow == kTileColumns / 2) && p.c_mid % kHalfBlock == 0 &&
         (left == 0 || left == w.kernel_w / 2) &&
         (right == 0 || right == (w.kernel_w - w.stride_w) / 2);
}

// Of how many channels a convolution whose rows are bare makes all rows of a task, before the next.
// All, where every other pixel of y begins in the middle of a line: past the caches lines go whole.
// Else, in images that the second cache holds, as many as the first one holds the rows of a window
// for, if that saves enough: 32 images of 240 x 28 x 28, 5 x 5, take 1.23 ms so and 1.62 by whole
// pixels (two cores of an Emerald Rapids); of 256 x 28 x 28, 3 x 3, 1.13 and 1.05.
std::int64_t bare_chunk(const SeparableProblem& p, const Caches& caches,
                        const SeparablePlan& plan) {
  if (p.streams && plan.parts == 1 && p.ow % 2 == 0 && p.c_mid % kBlock == kHalfBlock) {
    return round_up(p.c_mid, kBlock);
  }
  const bool reads_tiles = plan.from_memory && caches.foresees_tiles;
  if (!reads_tiles || p.h * p.w * p.c_mid * kFloat > caches.l2_bytes / 2) return plan.chunk;
  constexpr std::int64_t kTile = 2 * kBlock, kEnough = 160;
  const Window& w = p.window;
  const std::int64_t fit = caches.l1d_bytes / 2 / (w.kernel_h * p.w * kFloat);
  return fit * (w.kernel_h - w.stride_h) < kEnough ? plan.chunk
                                                   : std::max(fit / kTile * kTile, kTile);
}

// SeparablePlan::columns of bare rows. Where the first cache does not hold the rows of a window,
// tiles go down the image: the next row's window is there but for its last rows. 32 images of
// 56 x 56 x 72 take 1.13 ms so and 1.25 row by row, of 128 channels 1.98 and 2.34 (two cores of an
// Emerald Rapids).
std::int64_t bare_columns(const SeparableProblem& p, const Caches& caches,
                          const SeparablePlan& plan) {
  const std::int64_t channels = std::min(plan.chunk, p.c_mid);
  const std::int64_t window = p.window.kernel_h * p.w * channels * kFloat;
  const bool down = p.streams && caches.foresees_tiles && window > caches.l1d_bytes * 3 / 4;
  return down && p.ow % kTileColumns == 0 ? kTileColumns : p.ow;
}

}  // namespace

Interior interior_columns(const Window& window, std::int64_t w, std::int64_t ow) {
  const std::int64_t span = std::int64_t{window.kernel_w - 1} * window.dilation_w;
  const std::int64_t first = (window.pad_left + window.stride_w - 1) / window.stride_w;
  const std::int64_t room = w - 1 - span + window.pad_left;
  const std::int64_t last = room < 0 ? 0 : room / window.stride_w + 1;
  return {std::min(first, ow), std::max(std::min(last, ow), std::min(first, ow))};
}

bool has_depthwise_tiles(const Window& w) {
  return w.kernel_h == w.kernel_w && (w.kernel_w == 3 || w.kernel_w == 5) && w.stride_w <= 2 &&
         w.dilation_w == 1;
}

std::int64_t zeros_right(const SeparableProblem& p) {
  const std::int64_t reach = (p.ow - 1) * p.window.stride_w + p.window.kernel_w;
  return std::max<std::int64_t>(reach - p.window.pad_left - p.w, 0);
}

std::int64_t plan_tasks(std::int64_t units, std::int64_t multiply_adds, int threads) {
  const std::int64_t most = std::min(most_tasks(multiply_adds, threads), units);
  std::int64_t best = 1, least = units;
  for (std::int64_t tasks = 2; tasks <= most; ++tasks) {
    const std::int64_t slowest = ceil_div(tasks, threads) * ceil_div(units, tasks);
    if (slowest > least) continue;
    least = slowest;
    best = tasks;
  }
  return best;
}

ProductPlan plan_product(std::int64_t m, std::int64_t k, std::int64_t n, bool scaled, int threads) {
  const std::int64_t work = m * k * n;
  const int worth = plan_threads(work, threads);
  // Weights that are heavier than the pixels are split, so that each task reads its part of them;
  // otherwise the pixels are, in units of the heights of most tiles. Blocks go in pairs, which the
  // wider tiles want, unless that leaves a thread more to do.
  const std::int64_t blocks = ceil_div(n, kBlock);
  ProductPlan plan;
  plan.by_channels = n > m && blocks >= worth;
  if (plan.by_channels) {
    const bool pairs = 2 * ceil_div(ceil_div(blocks, 2), worth) <= ceil_div(blocks, worth);
    plan.unit = pairs ? 2 * kBlock : kBlock;
    plan.tasks = plan_tasks(ceil_div(n, plan.unit), scaled ? 0 : work, worth);
  } else {
    constexpr std::int64_t kTile = 12;
    constexpr std::int64_t kFewWeights = 16 * 1024;  // 64 KiB of float32
    plan.unit = m >= 2 * kTile * worth ? kTile : 1;
    plan.scale_weights = scaled && n < m && k * n <= kFewWeights;
    plan.tasks = plan_tasks(ceil_div(m, plan.unit), plan.scale_weights ? 0 : work, worth);
  }
  return plan;
}

void set_fusion_policy(FusionPolicy policy) { policy_in_use = policy; }
FusionPolicy fusion_policy() { return policy_in_use; }

Caches machine_caches() {
  const CpuInfo& cpu = cpu_info();
  return assumed_caches.value_or(
      Caches{cpu.l1d_bytes, cpu.l2_bytes, cpu.banked_l2, cpu.foresees_tiles, cpu.two_ports});
}
void assume_caches(const Caches& caches) { assumed_caches = caches; }

int plan_threads(std::int64_t multiply_adds, int threads) {
  return static_cast<int>(std::clamp<std::int64_t>(multiply_adds / kRegion, 1, threads));
}

CallPlan plan_call(std::int64_t work, std::int64_t images, int threads) {
  // Entering a region of torch's and leaving it is dearer than a region of a team: an estimate.
  constexpr std::int64_t kWorth = 200'000;
  CallPlan plan;
  plan.threads = static_cast<int>(std::clamp<std::int64_t>(work / kWorth, 1, threads));
  plan.images_in_parallel = plan.threads > 1 && images >= plan.threads;
  return plan;
}

std::int64_t plan_m_block(std::int64_t m, std::int64_t k, bool scaled, const Caches& caches) {
  // Of 2 MB a third is too much for scaled pixels: their originals lie next to them.
  constexpr std::int64_t kScaled = 170 << 10;
  const std::int64_t third = caches.l2_bytes / 3;
  const std::int64_t budget = scaled ? std::min(third, kScaled) : third;
  const std::int64_t most =
      std::max<std::int64_t>(24, budget / std::max<std::int64_t>(1, k * kFloat));
  return std::max<std::int64_t>(1, ceil_div(m, ceil_div(std::max<std::int64_t>(m, 1), most)));
}

std::int64_t plan_reach(const Caches& caches) {
  return caches.slow_l3 ? caches.l2_bytes / kFloat / 8 * 3 : 0;
}

std::int64_t multiply_adds(const SeparableProblem& p) {
  const std::int64_t taps = std::int64_t{p.window.kernel_h} * p.window.kernel_w;
  return p.oh * p.ow * p.c_mid * (taps + (p.has_project ? p.c_out : 0)) +
         (p.has_expand ? p.h * p.w * p.c_in * p.c_mid : 0);
}

SeparablePlan plan_separable(const SeparableProblem& p, const Caches& caches, int max_threads,
                             FusionPolicy policy) {
  SeparablePlan plan;
  const int threads = plan.threads = plan_threads(multiply_adds(p), max_threads);
  const Window& w = p.window;
  plan.ring_columns =
      std::max(w.pad_left + p.w, (p.ow - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1);
  const std::int64_t ring_row = plan.ring_columns * kFloat;
  const std::int64_t half_l2 = caches.l2_bytes / 2;

  // The depthwise output and its input, were they kept whole.
  const std::int64_t intermediate =
      p.c_mid * kFloat * (p.oh * p.ow + (p.has_expand ? p.h * p.w : 0));
  plan.room_for_weights = threads == 1 && intermediate <= caches.l2_bytes / 4 * 3;
  const bool possible = p.has_project && !p.has_se;
  // Without an expansion strips compute nothing twice, but read the projection's weights again.
  const std::int64_t weights = p.c_mid * p.c_out * kFloat;
  const bool strips_pay =
      !p.has_expand && weights <= caches.l2_bytes / 4 &&
      kFloat * p.c_mid * p.h * p.w + intermediate + kFloat * p.c_out * p.oh * p.ow >
          caches.l2_bytes;
  SeparablePlan by_channels;
  const std::int64_t shared = share_channels(p, threads, by_channels);
  // Rows that neighbouring bands both expand, against the rows that a band owns.
  const std::int64_t band_rows = ceil_div(p.oh, threads);
  const bool bands_pay =
      threads == 1 || !p.has_expand || input_rows(w, band_rows) * 8 <= band_rows * w.stride_h * 9;
  if (policy != FusionPolicy::kAuto) {
    plan.row_fusion = possible && policy == FusionPolicy::kRows;
    plan.reason = plan.row_fusion ? "row fusion: asked for" : "channel fusion: asked for";
  } else if (!possible) {
    plan.reason = p.has_se ? "channel fusion: squeeze-and-excitation needs the whole image first"
                           : "channel fusion: there is no projection to feed";
  } else if (one_region_pays(p, threads, shared)) {
    plan.row_fusion = true;
    plan.reason = "row fusion: one region of threads is less work than two";
  } else if (strips_pay) {
    plan.row_fusion = true;
    plan.reason = "row fusion: input, intermediate and output do not fit the second cache together";
  } else if (intermediate <= half_l2) {
    plan.reason = "channel fusion: the intermediate fits half of the second cache";
  } else if (!bands_pay) {
    plan.reason = "channel fusion: bands of rows would recompute more than 1/8 of the expansion";
  } else {
    plan.row_fusion = true;
    plan.reason = "row fusion: the intermediate would not stay in the second cache";
  }

  // The rows under one output row, for a chunk of channels, take half of the first cache. A
  // depthwise convolution alone on an image that comes from memory takes whole pixels: passes over
  // slices of them are slower than the second cache.
  const std::int64_t window_row = w.kernel_h * ring_row;
  plan.from_memory =
      !p.has_expand && !p.has_project && p.h * p.w * p.c_mid * kFloat > caches.l2_bytes / 4;
  const std::int64_t room = plan.from_memory ? half_l2 : caches.l1d_bytes / 2;
  plan.chunk = std::clamp<std::int64_t>(room / window_row / kBlock * kBlock, kBlock,
                                        round_up(p.c_mid, kBlock));
  std::int64_t most = 0;  // output rows of a band
  std::int64_t ring_channels = 0, strip_channels = 0, budget = 0;
  if (plan.row_fusion) {
    plan.bands = share_rows(p, threads);
    ring_channels = p.has_expand ? p.c_mid : 0;
    strip_channels = p.c_mid;
    // 112 x 112, 32 -> 16 takes 12 % less by an eighth of 2 MB than by a half (Emerald Rapids).
    budget = p.has_expand ? half_l2 : std::clamp(weights, caches.l2_bytes / 8, half_l2);
  } else {
    plan.bands = by_channels.bands;
    plan.parts = by_channels.parts;
    ring_channels = p.has_expand ? plan.chunk : 0;
    budget = caches.l2_bytes / 3;
  }
  most = ceil_div(p.oh, plan.bands);
  auto bytes = [&](std::int64_t rows) {
    return input_rows(w, rows) * ring_row * ring_channels + rows * p.ow * strip_channels * kFloat;
  };
  std::int64_t rows = 1;
  while (rows < most && bytes(rows + 1) <= budget) ++rows;
  plan.strip_rows = ceil_div(most, ceil_div(most, rows));
  // Columns at an edge have no tile. Where they are an eighth or more of those of a window that has
  // tiles, rows are copied to a ring that has zeros around them.
  const Interior inside = interior_columns(w, p.w, p.ow);
  plan.bare = is_bare(p);
  plan.padded = !plan.bare && has_depthwise_tiles(w) && !p.has_expand && !p.has_project &&
                (p.ow - (inside.last - inside.first)) * 8 >= p.ow;
  if (p.has_expand) plan.ring_rows = std::min(input_rows(w, plan.strip_rows), p.h);
  if (plan.padded) plan.ring_rows = std::min(input_rows(w, 1), p.h);
  if (plan.bare) plan.chunk = bare_chunk(p, caches, plan);
  plan.columns = plan.bare ? bare_columns(p, caches, plan) : p.ow;
  return plan;
}

PooledPlan plan_pooled(const Window& w, std::int64_t h, std::int64_t row_elements, std::int64_t oh,
                       const Caches& caches, int threads, FusionPolicy policy) {
  PooledPlan plan;
  plan.bands = std::min<std::int64_t>(threads, oh);
  const std::int64_t row = row_elements * kFloat;
  const std::int64_t band_rows = ceil_div(oh, plan.bands);
  auto rows_under = [&](std::int64_t rows) { return std::min(input_rows(w, rows), h); };
  if (policy != FusionPolicy::kAuto) {
    plan.fused = policy == FusionPolicy::kRows;
    plan.reason = plan.fused ? "with the pooling: asked for" : "before the pooling: asked for";
  } else if (h * row <= caches.l2_bytes / 2) {
    plan.reason = "before the pooling: the output fits half of the second cache";
  } else if (rows_under(1) * row > caches.l2_bytes / 2) {
    plan.reason = "before the pooling: the rows of a window do not fit half of the second cache";
  } else if (plan.bands > 1 &&
             input_rows(w, band_rows) * 8 > band_rows * std::int64_t{w.stride_h} * 9) {
    plan.reason = "before the pooling: bands of rows would recompute more than 1/8 of the output";
  } else {
    plan.fused = true;
    plan.reason = "with the pooling: the output would not stay in the second cache";
  }
  std::int64_t rows = 1;
  while (rows < band_rows && rows_under(rows + 1) * row <= caches.l2_bytes / 4) ++rows;
  plan.strip_rows = ceil_div(band_rows, ceil_div(band_rows, rows));
  plan.ring_rows = rows_under(plan.strip_rows);
  return plan;
}

}  // namespace weebill
