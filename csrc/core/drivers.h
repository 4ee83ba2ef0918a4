// One driver per kind of record: plan -> scratch -> bands -> kernels. Internal to the core.
#pragma once

#include <cstdint>
#include <string>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "core/record.h"
#include "core/workspace.h"

namespace weebill {

/// What a driver runs with. Inside a parallel region `threads` is 1.
struct Run {
  const KernelTable& kernels;
  Caches caches;
  int threads;

  /// body(task) for each task, in parallel where there is more than one thread.
  template <typename Body>
  void for_each(std::int64_t tasks, Body&& body) const {
    if (threads == 1) {
      for (std::int64_t task = 0; task < tasks; ++task) body(task);
    } else {
      parallel_for(tasks, body);
    }
  }
};

/// run() with what is given.
void run_with(const Run& run, const std::string& op, const TensorView& x, Packed records, float* y);

/// x of any layout; y dense NHWC. All images of x.
void run_conv2d(const Run& run, const Record& record, const TensorView& x, float* y);

/// The input of a block whose channels need not lie together: channel c of pixel p is at
/// x + p * pixel_stride + (offsets ? offsets[c] : c).
struct Pixels {
  const float* x;
  std::int64_t pixel_stride;
  const std::int64_t* offsets = nullptr;  ///< only where the block begins with an expansion
};

/// The rest: x and y dense NHWC. `shape` is one image's, its n is ignored.
///
/// `y_stride`: of a block with a projection, from one pixel of y to the next where y is not dense;
/// the room between two pixels, up to a multiple of kHalfBlock channels, is written to as well.
void run_separable(const Run& run, const Record& record, const Pixels& x, const Shape& shape,
                   float* y, std::int64_t y_stride = 0);
/// The block as plan_separable() wants it, for an input x and the output that record_output()
/// gives.
SeparableProblem separable_problem(const Record& record, const Shape& x, const Shape& out);
void run_squeeze_excite(const Run& run, const Record& record, const float* x, const Shape& shape,
                        float* y);
void run_pointwise(const Run& run, const Record& record, const float* x, std::int64_t pixels,
                   float* y);
void run_global_pool(const Run& run, const float* x, const Shape& shape, float* y);
void run_max_pool(const Run& run, const Record& record, const float* x, const Shape& shape,
                  float* y);
/// How run_conv2d_max_pool() would do it, if at all, for an input x of the convolution.
PooledPlan plan_pooled(const Run& run, const Record& conv, const Record& pool, const Shape& x);
/// A convolution and the max pooling after it, by a plan that fuses them; as run_conv2d() else.
void run_conv2d_max_pool(const Run& run, const Record& conv, const Record& pool,
                         const TensorView& x, const PooledPlan& plan, float* y);
/// `count` consecutive units of ShuffleNetV2 at once; all but the first without a shortcut.
void run_shuffle_units(const Run& run, const Record* units, std::size_t count, const float* x,
                       const Shape& shape, float* y);
void run_shuffle_unit_v1(const Run& run, const Record& record, const float* x, const Shape& shape,
                         float* y);
/// y = channel_shuffle(x), `images` of them.
void run_channel_shuffle(const Run& run, const Record& record, const float* x, const Shape& shape,
                         float* y);

/// A product of all its pixels, split over threads; m_block and scratch are filled in here.
void run_product(const Run& run, PointwiseArgs args);

/// scale[c] = gate(W2 act(W1 mean + b1) + b2), where mean[c] is the sum over `rows` rows of sums
/// (each of round_up(c, 16) elements, added in order) divided by `pixels`.
void squeeze_excite_scale(const Run& run, const Record& record, const float* sums,
                          std::int64_t rows, std::int64_t pixels, float* scale);

/// The tensor as dense NHWC: its own memory if it is that, else a copy in `scope`.
const float* nhwc_data(const Run& run, const TensorView& x, Workspace::Scope& scope);

/// Which output columns of a window lie wholly inside an image w wide: [first, last).
struct Interior {
  std::int64_t first, last;
};
Interior interior_columns(const Window& window, std::int64_t w, std::int64_t ow);

}  // namespace weebill
