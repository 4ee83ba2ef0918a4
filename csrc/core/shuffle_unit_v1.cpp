// ShuffleNetV1's unit. The shuffle moves nothing: the depthwise convolution works on the channels
// in the order in which the first product leaves them (its weights were packed in that order), and
// the second product reads them through a table of offsets.
#include <algorithm>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {
namespace {

/// A 1 x 1 convolution in groups on pixels [first, first + m). Channel c of an input pixel is at
/// offsets[c], or at c without a table.
template <typename T>
void product(const RunOf<T>& run, const Record& record, const T* x, std::int64_t x_stride,
             const std::int64_t* offsets, std::int64_t first, std::int64_t m, const T* residual,
             T* y, std::int64_t y_stride) {
  const RecordHeader& h = *record.header;
  const std::int64_t k = h.c_in / h.groups, n = h.c_out / h.groups;
  PointwiseArgsOf<T> a{};
  a.x_stride = x_stride;
  a.w_block_stride = k * kBlock;
  a.y_stride = y_stride;
  a.y_width = std::max<std::int64_t>(m, 1);
  a.m = m;
  a.k = k;
  a.n = n;
  a.m_block = plan_m_block(m, k, false, run.caches);
  a.activation = static_cast<std::int32_t>(h.activation);
  for (std::int64_t group = 0; group < h.groups; ++group) {
    a.x = x + first * x_stride + (offsets == nullptr ? group * k : 0);
    a.offsets = offsets == nullptr ? nullptr : offsets + group * k;
    a.w = record.project_w.as<T>() + group * product_elements(k, n);
    a.bias = record.project_b.as<T>() + group * round_up(n, kBlock);
    a.y = y + first * y_stride + group * n;
    a.residual = residual == nullptr ? nullptr : residual + first * y_stride + group * n;
    a.residual_stride = y_stride;
    (offsets == nullptr ? block::pointwise(run.kernels) : block::conv2d(run.kernels))(a);
  }
}

/// body(first, count) for ranges of pixels, one per thread.
template <typename T, typename Body>
void for_pixels(const RunOf<T>& run, std::int64_t pixels, std::int64_t work, Body&& body) {
  const std::int64_t tasks = std::min<std::int64_t>(plan_threads(work, run.threads), pixels);
  run.for_shares(tasks, pixels, 1, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    body(first, last - first);
  });
}

}  // namespace

template <typename T>
void run_shuffle_unit_v1(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                         T* y) {
  const RecordHeader& h = *record.header;
  const Record &expand = record.parts[0], &depthwise = record.parts[1], &project = record.parts[2];
  const Shape out = record_output("run", record, {1, shape.c, shape.h, shape.w});
  const std::int64_t c_mid = depthwise.header->c_in;
  const std::int64_t in_pixels = shape.h * shape.w, pixels = out.h * out.w;
  Workspace::Scope scope(Workspace::of_this_thread());
  T* expanded = scope.take<T>(in_pixels * c_mid);
  T* middle = scope.take<T>(pixels * c_mid);
  std::int64_t* offsets = scope.take<std::int64_t>(c_mid);
  const std::int64_t per_group = c_mid / h.groups;
  for (std::int64_t c = 0; c < c_mid; ++c) offsets[c] = c % h.groups * per_group + c / h.groups;

  for_pixels(run, in_pixels, in_pixels * c_mid * expand.header->c_in / expand.header->groups,
             [&](std::int64_t first, std::int64_t m) {
               product(run, expand, x, shape.c, nullptr, first, m, static_cast<const T*>(nullptr),
                       expanded, c_mid);
             });
  const Shape between = {1, c_mid, shape.h, shape.w};
  run_separable(run, depthwise, {expanded, c_mid}, between, middle);

  const std::int64_t skipped = out.c - project.header->c_out;
  if (skipped > 0) {
    T* pooled = scope.take<T>(pixels * skipped);
    run_separable(run, record.parts[3], {x, shape.c}, shape, pooled);
    const T* const from = pooled;
    block::channel_shuffle(run.kernels)({&from, &skipped, y, out.c, pixels, 1, skipped});
  }
  const T* residual = h.residual != 0 ? x : nullptr;
  for_pixels(run, pixels, pixels * c_mid * project.header->c_out / project.header->groups,
             [&](std::int64_t first, std::int64_t m) {
               product(run, project, middle, c_mid, offsets, first, m, residual, y + skipped,
                       out.c);
               if (h.activation != Activation::kNone) {
                 block::activate(run.kernels)(
                     {y + first * out.c, out.c, m, out.c, static_cast<std::int32_t>(h.activation)});
               }
             });
}

template void run_shuffle_unit_v1(const Run&, const Record&, const float*, const Shape&, float*);
template void run_shuffle_unit_v1(const RunOf<Half>&, const Record&, const Half*, const Shape&,
                                  Half*);

}  // namespace weebill
