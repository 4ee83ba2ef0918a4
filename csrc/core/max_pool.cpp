// Max pooling: the columns whose windows lie inside the image at once, the others one by one. After
// a convolution both go through the image together: a strip of the convolution's rows stays in a
// ring in the second cache until its windows have been there.
#include <algorithm>
#include <limits>

#include "core/conv2d.h"
#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {
namespace {

/// The taps of one window axis that lie inside an image of `size`: [first, last).
Interior inside_taps(std::int64_t start, std::int64_t kernel, std::int64_t dilation,
                     std::int64_t size) {
  std::int64_t first = 0;
  while (first < kernel && start + first * dilation < 0) ++first;
  std::int64_t last = first;
  while (last < kernel && start + last * dilation < size) ++last;
  return {first, last};
}

template <typename T>
T lowest();
template <>
float lowest() {
  return -std::numeric_limits<float>::infinity();
}
template <>
Half lowest() {
  return to_half(-std::numeric_limits<float>::infinity());
}

/// The pooling of images of one shape, row by row.
template <typename T>
class MaxPoolRow {
 public:
  MaxPoolRow(const RunOf<T>& run, const Record& record, const Shape& x, const Shape& out)
      : run_(run),
        window_(resolve(record.header->window, x.h, x.w)),
        x_(x),
        out_(out),
        interior_(interior_columns(window_, x.w, out.w)) {}

  const Window& window() const { return window_; }
  /// Of one image: a comparison counts as a multiply-add.
  std::int64_t work() const {
    return out_.h * out_.w * out_.c * window_.kernel_h * window_.kernel_w;
  }

  /// Output row oy to y. row(i) is where row i of the image begins.
  template <typename Row>
  void operator()(std::int64_t oy, Row&& row, T* y) const {
    const Window& w = window_;
    Workspace::Scope scope(Workspace::of_this_thread());
    const T** rows = scope.take<const T*>(w.kernel_h);
    MaxPoolArgsOf<T> a{};
    a.x_rows = rows;
    a.x_stride = x_.c;
    a.y_stride = x_.c;
    a.stride = w.stride_w;
    a.dilation = w.dilation_w;
    a.channels = x_.c;
    const std::int64_t top = oy * w.stride_h - w.pad_top;
    const Interior inside = inside_taps(top, w.kernel_h, w.dilation_h, x_.h);
    a.rows = inside.last - inside.first;
    auto columns = [&](std::int64_t first, std::int64_t count) {
      const std::int64_t left = first * w.stride_w - w.pad_left;
      const Interior taps = inside_taps(left, w.kernel_w, w.dilation_w, x_.w);
      a.y = y + first * x_.c;
      a.taps = taps.last - taps.first;
      a.columns = count;
      if (a.rows == 0 || a.taps == 0) {  // as torch: the maximum of nothing
        std::fill(a.y, a.y + count * x_.c, lowest<T>());
        return;
      }
      for (std::int64_t u = 0; u < a.rows; ++u) {
        rows[u] = row(top + (inside.first + u) * w.dilation_h) +
                  (left + taps.first * w.dilation_w) * x_.c;
      }
      block::max_pool(run_.kernels)(a);
    };
    for (std::int64_t ox = 0; ox < interior_.first; ++ox) columns(ox, 1);
    if (interior_.first < interior_.last) {
      columns(interior_.first, interior_.last - interior_.first);
    }
    for (std::int64_t ox = interior_.last; ox < out_.w; ++ox) columns(ox, 1);
  }

 private:
  const RunOf<T>& run_;
  const Window window_;
  const Shape x_, out_;
  const Interior interior_;
};

}  // namespace

template <typename T>
void run_max_pool(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape, T* y) {
  const Shape out = record_output("run", record, shape);
  const MaxPoolRow<T> pool(run, record, shape, out);
  const std::int64_t bands = std::min<std::int64_t>(plan_threads(pool.work(), run.threads), out.h);
  run.for_shares(bands, out.h, 1, [&](std::int64_t oy, std::int64_t last, std::int64_t) {
    for (; oy < last; ++oy) {
      pool(oy, [&](std::int64_t i) { return x + i * shape.w * shape.c; }, y + oy * out.w * out.c);
    }
  });
}

template <typename T>
PooledPlan plan_pooled(const RunOf<T>& run, const Record& conv, const Record& pool,
                       const Shape& x) {
  const Shape between = record_output("run", conv, x);
  const Shape out = record_output("run", pool, between);
  const RecordHeader& h = *conv.header;
  const std::int64_t row = between.w * between.c;
  const std::int64_t work =
      between.h * row * h.window.kernel_h * h.window.kernel_w * h.c_in / h.groups;
  return plan_pooled(resolve(pool.header->window, between.h, between.w), between.h, row, out.h,
                     run.caches, plan_threads(work, run.threads), fusion_policy());
}

template <typename T>
void run_conv2d_max_pool(const RunOf<T>& run, const Record& conv_record, const Record& pool_record,
                         const TensorViewOf<T>& x, const PooledPlan& plan, T* y) {
  if (x.n == 0) return;
  Workspace::Scope scope(Workspace::of_this_thread());
  const Conv2dRows<T> conv(run, conv_record, x, scope);
  const Shape& between = conv.shape();
  const Shape out = record_output("run", pool_record, between);
  const MaxPoolRow<T> pool(run, pool_record, between, out);
  const Window& w = pool.window();
  const std::int64_t row = between.w * between.c;
  const std::int64_t ring_elements = round_up(plan.ring_rows * row, kBlock);
  const std::int64_t per_band = ring_elements + conv.scratch_elements();
  T* memory = scope.take<T>(per_band * plan.bands);
  const auto run_band = [&](std::int64_t first, std::int64_t last, std::int64_t band) {
    T* const ring = memory + band * per_band;
    for (std::int64_t image = 0; image < x.n; ++image) {
      std::int64_t done = 0;  // rows of the convolution above this one are there, as far as needed
      for (std::int64_t begin = first; begin < last; begin += plan.strip_rows) {
        const std::int64_t end = std::min(begin + plan.strip_rows, last);
        const std::int64_t bottom =
            (end - 1) * w.stride_h - w.pad_top + std::int64_t{w.kernel_h - 1} * w.dilation_h + 1;
        const std::int64_t to = std::min(bottom, between.h);
        for (std::int64_t from = std::max(begin * w.stride_h - w.pad_top, done); from < to;) {
          const std::int64_t slot = from % plan.ring_rows;
          const std::int64_t count = std::min(to - from, plan.ring_rows - slot);
          conv.rows(image, from, from + count, ring + slot * row, ring + ring_elements);
          from += count;
        }
        done = std::max(done, to);
        for (std::int64_t oy = begin; oy < end; ++oy) {
          pool(
              oy, [&](std::int64_t i) { return ring + i % plan.ring_rows * row; },
              y + (image * out.h + oy) * out.w * out.c);
        }
      }
    }
  };
  run.for_shares(plan.bands, out.h, 1, run_band);
}

template void run_max_pool(const Run&, const Record&, const float*, const Shape&, float*);
template void run_max_pool(const RunOf<Half>&, const Record&, const Half*, const Shape&, Half*);
template PooledPlan plan_pooled(const Run&, const Record&, const Record&, const Shape&);
template PooledPlan plan_pooled(const RunOf<Half>&, const Record&, const Record&, const Shape&);
template void run_conv2d_max_pool(const Run&, const Record&, const Record&, const TensorView&,
                                  const PooledPlan&, float*);
template void run_conv2d_max_pool(const RunOf<Half>&, const Record&, const Record&,
                                  const HalfTensorView&, const PooledPlan&, Half*);

}  // namespace weebill
