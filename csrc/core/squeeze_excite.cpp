#include <algorithm>
#include <cstring>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {

void run_product(const Run& run, PointwiseArgs a) {
  if (a.m <= 0) return;
  const ProductPlan plan = plan_product(a.m, a.k, a.n, a.scale != nullptr, run.threads);
  const std::int64_t unit = plan.unit;
  const std::int64_t units = ((plan.by_channels ? a.n : a.m) + unit - 1) / unit;
  const std::int64_t part = plan.by_channels ? a.m : (units + plan.tasks - 1) / plan.tasks * unit;
  const std::int64_t m_block = plan_m_block(part, a.k, a.n, run.caches);
  run.for_each(plan.tasks, [&](std::int64_t task) {
    const std::int64_t first = task * units / plan.tasks * unit;
    const std::int64_t end = (task + 1) * units / plan.tasks * unit;
    PointwiseArgs mine = a;
    mine.m_block = m_block;
    Workspace::Scope scope(Workspace::of_this_thread());
    if (a.scale != nullptr) mine.scratch = scope.take(round_up(m_block * a.k, kBlock));
    if (plan.by_channels) {
      mine.w += first / kBlock * a.w_block_stride;
      mine.bias += first;
      mine.y += first;
      if (a.residual != nullptr) mine.residual += first;
      mine.n = std::min(a.n, end) - first;
    } else {
      const std::int64_t start = a.y_column + first;
      mine.x += first * a.x_stride;
      mine.y += first * a.y_stride + start / a.y_width * a.y_jump;
      mine.y_column = start % a.y_width;
      if (a.residual != nullptr) mine.residual += first * a.residual_stride;
      mine.m = std::min(a.m, end) - first;
    }
    run.kernels.pointwise_f32(mine);
  });
}

namespace {

// A dense product: pixels next to each other, no residual.
PointwiseArgs dense_product(const float* x, const float* w, const float* bias, float* y,
                            std::int64_t m, std::int64_t k, std::int64_t n, Activation activation) {
  PointwiseArgs a{};
  a.x = x;
  a.x_stride = k;
  a.w = w;
  a.w_block_stride = k * kBlock;
  a.bias = bias;
  a.y = y;
  a.y_stride = n;
  a.y_width = std::max<std::int64_t>(m, 1);
  a.m = m;
  a.k = k;
  a.n = n;
  a.m_block = 1;
  a.activation = static_cast<std::int32_t>(activation);
  return a;
}

}  // namespace

void run_pointwise(const Run& run, const Record& record, const float* x, std::int64_t pixels,
                   float* y) {
  const RecordHeader& h = *record.header;
  run_product(run, dense_product(x, record.project_w, record.project_b, y, pixels, h.c_in, h.c_out,
                                 h.activation));
}

void squeeze_excite_scale(const Run& run, const Record& record, const float* sums,
                          std::int64_t rows, std::int64_t pixels, float* scale) {
  const RecordHeader& h = *record.header;
  const std::int64_t stride = round_up(h.c_mid, kBlock);
  Workspace::Scope scope(Workspace::of_this_thread());
  float* mean = scope.take(stride);
  float* hidden = scope.take(round_up(h.c_se, kBlock));
  std::memset(mean, 0, static_cast<std::size_t>(stride) * sizeof(float));
  run.kernels.sum_f32({sums, stride, mean, rows, h.c_mid});
  const float count = static_cast<float>(pixels);
  for (std::int64_t c = 0; c < h.c_mid; ++c) mean[c] /= count;
  run_product(run, dense_product(mean, record.se_reduce_w, record.se_reduce_b, hidden, 1, h.c_mid,
                                 h.c_se, h.se_activation));
  run_product(run, dense_product(hidden, record.se_expand_w, record.se_expand_b, scale, 1, h.c_se,
                                 h.c_mid, h.se_gate));
}

namespace {

// Sums of the pixels in groups of one image row, so that the order of additions is the same
// whatever the threads: sums has shape.h rows.
void row_sums(const Run& run, const float* x, const Shape& shape, float* sums) {
  const std::int64_t stride = round_up(shape.c, kBlock);
  std::memset(sums, 0, static_cast<std::size_t>(stride * shape.h) * sizeof(float));
  const std::int64_t tasks =
      std::min<std::int64_t>(plan_threads(shape.h * shape.w * shape.c, run.threads), shape.h);
  run.for_each(tasks, [&](std::int64_t task) {
    for (std::int64_t y = task * shape.h / tasks; y < (task + 1) * shape.h / tasks; ++y) {
      run.kernels.sum_f32(
          {x + y * shape.w * shape.c, shape.c, sums + y * stride, shape.w, shape.c});
    }
  });
}

}  // namespace

void run_squeeze_excite(const Run& run, const Record& record, const float* x, const Shape& shape,
                        float* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t stride = round_up(shape.c, kBlock);
  float* sums = scope.take(stride * shape.h);
  float* scale = scope.take(stride);
  row_sums(run, x, shape, sums);
  const std::int64_t pixels = shape.h * shape.w;
  squeeze_excite_scale(run, record, sums, shape.h, pixels, scale);
  const std::int64_t tasks = plan_threads(pixels * shape.c, run.threads);
  run.for_each(tasks, [&](std::int64_t task) {
    const std::int64_t first = task * pixels / tasks;
    const std::int64_t count = (task + 1) * pixels / tasks - first;
    const std::int64_t at = first * shape.c;
    run.kernels.scale_f32({x + at, shape.c, scale, y + at, shape.c, count, shape.c});
  });
}

void run_global_pool(const Run& run, const float* x, const Shape& shape, float* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t stride = round_up(shape.c, kBlock);
  float* sums = scope.take(stride * shape.h);
  row_sums(run, x, shape, sums);
  std::memset(y, 0, static_cast<std::size_t>(shape.c) * sizeof(float));
  run.kernels.sum_f32({sums, stride, y, shape.h, shape.c});
  const float count = static_cast<float>(shape.h * shape.w);
  for (std::int64_t c = 0; c < shape.c; ++c) y[c] /= count;
}

}  // namespace weebill
