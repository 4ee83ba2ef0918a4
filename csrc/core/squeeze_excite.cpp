#include <algorithm>
#include <cstring>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {

template <typename T>
void run_product(const RunOf<T>& run, PointwiseArgsOf<T> a) {
  if (a.m <= 0) return;
  const ProductPlan plan = plan_product(a.m, a.k, a.n, a.scale != nullptr, run.threads);
  const std::int64_t unit = plan.unit;
  const std::int64_t count = plan.by_channels ? a.n : a.m;
  const std::int64_t part =
      plan.by_channels ? a.m : ceil_div(ceil_div(count, unit), plan.tasks) * unit;
  const std::int64_t m_block =
      plan_m_block(part, a.k, a.scale != nullptr && !plan.scale_weights, run.caches);
  const auto multiply = [&](std::int64_t first, std::int64_t last, std::int64_t) {
    PointwiseArgsOf<T> mine = a;
    mine.m_block = m_block;
    mine.ahead = run.ahead;
    Workspace::Scope scope(Workspace::of_this_thread());
    if (a.scale != nullptr) {
      mine.scale_weights = plan.scale_weights;
      mine.scratch = scope.take<T>(plan.scale_weights ? kScaledBlocks * a.w_block_stride
                                                      : round_up(m_block * a.k, kBlock));
    }
    if (plan.by_channels) {
      mine.w += first / kBlock * a.w_block_stride;
      mine.bias += first;
      mine.y += first;
      if (a.residual != nullptr) mine.residual += first;
      mine.n = last - first;
    } else {
      const std::int64_t start = a.y_column + first;
      mine.x += first * a.x_stride;
      mine.y += first * a.y_stride + start / a.y_width * a.y_jump;
      mine.y_column = start % a.y_width;
      if (a.residual != nullptr) mine.residual += first * a.residual_stride;
      mine.m = last - first;
    }
    block::pointwise(run.kernels)(mine);
  };
  run.for_shares(plan.tasks, count, unit, multiply);
}

namespace {

// Sums are of float32 whatever the elements are; a mean is rounded once.
const KernelTable& float_kernels(const Run& run) { return run.kernels; }
const KernelTable& float_kernels(const RunOf<Half>& /*run*/) { return kernels(); }
float* float_room(float* y, std::int64_t /*count*/, Workspace::Scope& /*scope*/) { return y; }
float* float_room(Half* /*y*/, std::int64_t count, Workspace::Scope& scope) {
  return scope.take(count);
}
void put(const Run& /*run*/, const float* /*x*/, std::int64_t /*count*/, float* /*y*/) {}
void put(const RunOf<Half>& run, const float* x, std::int64_t count, Half* y) {
  run.kernels.narrow_f16({x, y, count});
}

// mean[c] = sum over the rows of sums / pixels.
template <typename T>
void mean_of_rows(const RunOf<T>& run, const float* sums, std::int64_t stride, std::int64_t rows,
                  std::int64_t pixels, std::int64_t channels, T* mean) {
  Workspace::Scope scope(Workspace::of_this_thread());
  float* total = float_room(mean, channels, scope);
  std::memset(total, 0, static_cast<std::size_t>(channels) * sizeof(float));
  float_kernels(run).sum_f32({sums, stride, total, rows, channels});
  const float count = static_cast<float>(pixels);
  for (std::int64_t c = 0; c < channels; ++c) total[c] /= count;
  put(run, total, channels, mean);
}

// A dense product: pixels next to each other, no residual.
template <typename T>
PointwiseArgsOf<T> dense_product(const T* x, Section w, Section bias, T* y, std::int64_t m,
                                 std::int64_t k, std::int64_t n, Activation activation) {
  PointwiseArgsOf<T> a = product_args(x, k, w.as<T>(), bias.as<T>(), y, n, m, k, n);
  a.activation = static_cast<std::int32_t>(activation);
  return a;
}

}  // namespace

template <typename T>
void run_pointwise(const RunOf<T>& run, const Record& record, const Pixels<T>& x,
                   std::int64_t pixels, T* y) {
  const RecordHeader& h = *record.header;
  PointwiseArgsOf<T> a = dense_product(x.x, record.project_w, record.project_b, y, pixels, h.c_in,
                                       h.c_out, h.activation);
  a.x_stride = x.pixel_stride;
  run_product(run, a);
}

template <typename T>
void squeeze_excite_scale(const RunOf<T>& run, const Record& record, const float* sums,
                          std::int64_t rows, std::int64_t pixels, T* scale) {
  const RecordHeader& h = *record.header;
  const std::int64_t stride = round_up(h.c_mid, kBlock);
  Workspace::Scope scope(Workspace::of_this_thread());
  T* mean = scope.take<T>(stride);
  T* hidden = scope.take<T>(round_up(h.c_se, kBlock));
  mean_of_rows(run, sums, stride, rows, pixels, h.c_mid, mean);
  run_product(run, dense_product(mean, record.se_reduce_w, record.se_reduce_b, hidden, 1, h.c_mid,
                                 h.c_se, h.se_activation));
  run_product(run, dense_product(hidden, record.se_expand_w, record.se_expand_b, scale, 1, h.c_se,
                                 h.c_mid, h.se_gate));
}

namespace {

// Sums of the pixels in groups of one image row, so that the order of additions is the same
// whatever the threads: sums has shape.h rows.
template <typename T>
void row_sums(const RunOf<T>& run, const T* x, const Shape& shape, float* sums) {
  const std::int64_t stride = round_up(shape.c, kBlock);
  std::memset(sums, 0, static_cast<std::size_t>(stride * shape.h) * sizeof(float));
  const std::int64_t tasks =
      std::min<std::int64_t>(plan_threads(shape.h * shape.w * shape.c, run.threads), shape.h);
  run.for_shares(tasks, shape.h, 1, [&](std::int64_t y, std::int64_t last, std::int64_t) {
    for (; y < last; ++y) {
      block::sum(run.kernels)(
          {x + y * shape.w * shape.c, shape.c, sums + y * stride, shape.w, shape.c});
    }
  });
}

}  // namespace

template <typename T>
void run_squeeze_excite(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                        T* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t stride = round_up(shape.c, kBlock);
  float* sums = scope.take(stride * shape.h);
  T* scale = scope.take<T>(stride);
  row_sums(run, x, shape, sums);
  const std::int64_t pixels = shape.h * shape.w;
  squeeze_excite_scale(run, record, sums, shape.h, pixels, scale);
  const std::int64_t tasks = plan_threads(pixels * shape.c, run.threads);
  run.for_shares(tasks, pixels, 1, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    const std::int64_t at = first * shape.c;
    block::scale(run.kernels)({x + at, shape.c, scale, y + at, shape.c, last - first, shape.c});
  });
}

template <typename T>
void run_global_pool(const RunOf<T>& run, const T* x, const Shape& shape, T* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t stride = round_up(shape.c, kBlock);
  float* sums = scope.take(stride * shape.h);
  row_sums(run, x, shape, sums);
  mean_of_rows(run, sums, stride, shape.h, shape.h * shape.w, shape.c, y);
}

template void run_product(const Run&, PointwiseArgs);
template void run_product(const RunOf<Half>&, PointwiseArgsOf<Half>);
template void run_pointwise(const Run&, const Record&, const Pixels<float>&, std::int64_t, float*);
template void run_pointwise(const RunOf<Half>&, const Record&, const Pixels<Half>&, std::int64_t,
                            Half*);
template void squeeze_excite_scale(const Run&, const Record&, const float*, std::int64_t,
                                   std::int64_t, float*);
template void squeeze_excite_scale(const RunOf<Half>&, const Record&, const float*, std::int64_t,
                                   std::int64_t, Half*);
template void run_squeeze_excite(const Run&, const Record&, const float*, const Shape&, float*);
template void run_squeeze_excite(const RunOf<Half>&, const Record&, const Half*, const Shape&,
                                 Half*);
template void run_global_pool(const Run&, const float*, const Shape&, float*);
template void run_global_pool(const RunOf<Half>&, const Half*, const Shape&, Half*);

}  // namespace weebill
