// Max pooling: the columns whose windows lie inside the image at once, the others one by one.
#include <algorithm>
#include <limits>

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

}  // namespace

void run_max_pool(const Run& run, const Record& record, const float* x, const Shape& shape,
                  float* y) {
  const Shape out = record_output("run", record, shape);
  const Window w = resolve(record.header->window, shape.h, shape.w);
  const Interior interior = interior_columns(w, shape.w, out.w);
  const std::int64_t work = out.h * out.w * shape.c * w.kernel_h * w.kernel_w;
  const std::int64_t bands = std::min<std::int64_t>(plan_threads(work, run.threads), out.h);
  run.for_each(bands, [&](std::int64_t band) {
    Workspace::Scope scope(Workspace::of_this_thread());
    const float** rows = scope.take<const float*>(w.kernel_h);
    MaxPoolArgs a{};
    a.x_rows = rows;
    a.x_stride = shape.c;
    a.y_stride = shape.c;
    a.stride = w.stride_w;
    a.dilation = w.dilation_w;
    a.channels = shape.c;
    for (std::int64_t oy = band * out.h / bands; oy < (band + 1) * out.h / bands; ++oy) {
      const std::int64_t top = oy * w.stride_h - w.pad_top;
      const Interior inside = inside_taps(top, w.kernel_h, w.dilation_h, shape.h);
      a.rows = inside.last - inside.first;
      auto columns = [&](std::int64_t first, std::int64_t count) {
        const std::int64_t left = first * w.stride_w - w.pad_left;
        const Interior taps = inside_taps(left, w.kernel_w, w.dilation_w, shape.w);
        a.y = y + (oy * out.w + first) * shape.c;
        a.taps = taps.last - taps.first;
        a.columns = count;
        if (a.rows == 0 || a.taps == 0) {  // as torch: the maximum of nothing
          std::fill(a.y, a.y + count * shape.c, -std::numeric_limits<float>::infinity());
          return;
        }
        for (std::int64_t u = 0; u < a.rows; ++u) {
          const std::int64_t row = top + (inside.first + u) * w.dilation_h;
          rows[u] = x + (row * shape.w + left + taps.first * w.dilation_w) * shape.c;
        }
        run.kernels.max_pool_f32(a);
      };
      for (std::int64_t ox = 0; ox < interior.first; ++ox) columns(ox, 1);
      if (interior.first < interior.last) {
        columns(interior.first, interior.last - interior.first);
      }
      for (std::int64_t ox = interior.last; ox < out.w; ++ox) columns(ox, 1);
    }
  });
}

}  // namespace weebill
