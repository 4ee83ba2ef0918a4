// How a block is cut into pieces: pure functions of shapes, cache sizes and threads.
#pragma once

#include <cstdint>
#include <string>

#include "core/weebill.h"

namespace weebill {

/// Plans count bytes of float32; for other elements their caller scales the caches.
constexpr std::int64_t kFloat = sizeof(float);

struct Caches {
  std::int64_t l1d_bytes, l2_bytes;
  bool banked_l2 = false;       ///< as CpuInfo's
  bool foresees_tiles = false;  ///< as CpuInfo's
  bool slow_l3 = false;  ///< one core reads the last cache at a fraction of the second one's rate
};

/// Those of this machine, or what assume_caches() said.
WEEBILL_API Caches machine_caches();
/// For counts that are to be the same on every machine. Before the first run: nothing guards it.
WEEBILL_API void assume_caches(const Caches& caches);

/// A separable block on one image, its padding made explicit.
struct SeparableProblem {
  std::int64_t c_in, c_mid, c_out;
  std::int64_t h, w, oh, ow;
  Window window;
  bool has_expand, has_se, has_project;
  bool leaves_zeros_out = false;  ///< as the kernels' table
  bool streams = false;           ///< as RunOf
};

/// Which output columns of a window lie wholly inside an image w wide: [first, last).
struct Interior {
  std::int64_t first, last;
};
Interior interior_columns(const Window& window, std::int64_t w, std::int64_t ow);

/// Whether depthwise kernels have tiles for a window; another goes tap by tap.
bool has_depthwise_tiles(const Window& window);

/// Zeros behind the last input column that a row of outputs meets.
std::int64_t zeros_right(const SeparableProblem& problem);

/// Two ways to run a block:
///   row fusion      each thread takes a band of output rows and goes through it in strips: the
///                   expansion of a strip lives in a ring of rows, the projection consumes its
///                   depthwise output at once. The intermediate never leaves the cache, and threads
///                   meet once per block, but bands recompute the rows between them.
///   channel fusion  each task takes a part of the channels, or a band of rows where those do
///                   not divide: expansion and depthwise of a chunk of channels for all rows, the
///                   whole depthwise output is kept, then the projection runs. Threads recompute
///                   nothing, and squeeze-and-excitation gets the whole image that it needs.
/// Either way the expansion is made and consumed by chunks of channels, small enough that the rows
/// under one output row stay in the first cache.
struct SeparablePlan {
  int threads = 1;  ///< that the block is worth
  bool row_fusion = false;
  std::int64_t bands = 1;       ///< of output rows
  std::int64_t parts = 1;       ///< of the channels, in channel fusion
  std::int64_t strip_rows = 1;  ///< output rows per strip
  std::int64_t chunk = 0;       ///< channels per chunk, a multiple of 16; the last may have 15 more
  bool from_memory = false;     ///< a depthwise convolution alone, its image larger than the caches
  bool padded = false;          ///< a depthwise convolution alone: its rows go through the ring
  bool bare = false;         ///< the kernels do not read the zeros around rows of the image itself
  std::int64_t columns = 0;  ///< of a task's rows: so many of all rows, then the next
  std::int64_t ring_rows = 0;     ///< rows of the expansion, or padded ones, that are kept
  std::int64_t ring_columns = 0;  ///< pixels per row of the ring, padding included
  bool room_for_weights = false;  ///< of calls to come, in the second cache, next to the block's
  const char* reason = "";
};

/// What to do where the rule would choose: for tests and benchmarks.
enum class FusionPolicy { kAuto, kRows, kChannels };
WEEBILL_API void set_fusion_policy(FusionPolicy policy);
WEEBILL_API FusionPolicy fusion_policy();

/// Multiply-adds of the block.
WEEBILL_API std::int64_t multiply_adds(const SeparableProblem& problem);

/// `threads` is what there is; the plan takes no more of them than the work pays for.
WEEBILL_API SeparablePlan plan_separable(const SeparableProblem& problem, const Caches& caches,
                                         int threads, FusionPolicy policy);

/// Tasks into which `units` of equal work, `multiply_adds` in all, are cut for so many threads:
/// what leaves the slowest thread least, and of that the finest that is worth handing out, because
/// cores are not equally fast, and not all of them begin at the same time.
WEEBILL_API std::int64_t plan_tasks(std::int64_t units, std::int64_t multiply_adds, int threads);

/// How a product of (m, k) pixels and (k, n) weights is shared out. `scaled`: each task multiplies
/// its pixels or weights by a scale per channel first; who shares them repeats that.
struct ProductPlan {
  bool by_channels = false;  ///< each task has its part of the weights, otherwise of the pixels
  std::int64_t unit = 1;     ///< channels or pixels that stay together
  std::int64_t tasks = 1;
  bool scale_weights = false;  ///< where they are few, instead of the pixels; depends on (m, k, n)
};
WEEBILL_API ProductPlan plan_product(std::int64_t m, std::int64_t k, std::int64_t n, bool scaled,
                                     int threads);

/// How a convolution and the max pooling after it run.
struct PooledPlan {
  bool fused = false;           ///< strip by strip; else one after the other
  std::int64_t bands = 1;       ///< of the pooling's rows
  std::int64_t strip_rows = 1;  ///< of the pooling
  std::int64_t ring_rows = 0;   ///< rows of the convolution that are kept
  const char* reason = "";
};

/// `window` is the pooling's, its padding made explicit; `h` the convolution's rows, of
/// `row_elements` each; `oh` the pooling's rows. kRows and kChannels ask for fused and not.
WEEBILL_API PooledPlan plan_pooled(const Window& window, std::int64_t h, std::int64_t row_elements,
                                   std::int64_t oh, const Caches& caches, int threads,
                                   FusionPolicy policy);

/// Pixels over which one block of weights is reused before the next block
/// (PointwiseArgs::m_block): as many as stay in the second cache. `scaled`: of scratch pixels, next
/// to which there are those that they were made from.
WEEBILL_API std::int64_t plan_m_block(std::int64_t m, std::int64_t k, bool scaled,
                                      const Caches& caches);

/// Elements of weights by which products of a single thread may be ahead with fetching them; 0:
/// only the next ones of their own.
WEEBILL_API std::int64_t plan_reach(const Caches& caches);

/// Threads that a piece of a call is worth: so many multiply-adds between two regions' ends.
WEEBILL_API int plan_threads(std::int64_t multiply_adds, int threads);

/// How a call uses its threads.
struct CallPlan {
  int threads = 1;  ///< that the call takes
  /// Each thread takes whole images; otherwise they share the work of one image after the other.
  bool images_in_parallel = false;

  /// What a block of one image gets, before it is asked what it is worth.
  int threads_of_image() const { return images_in_parallel ? 1 : threads; }
};

/// `work` in multiply-adds; `images` is 1 where they are rows of one product.
WEEBILL_API CallPlan plan_call(std::int64_t work, std::int64_t images, int threads);

}  // namespace weebill
