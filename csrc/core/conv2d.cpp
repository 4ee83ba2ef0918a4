// Dense convolution: windows inside the image go straight through a table of offsets, in any memory
// layout; windows that hang over an edge are gathered into rows of a matrix first.
#include <algorithm>
#include <cstring>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {
namespace {

struct Conv {
  const Run& run;
  const Record& record;
  const TensorView& x;
  Window window;
  std::int64_t oh, ow;
  std::int64_t depth, taps, k, n;  // per group: input channels, window, products, outputs
  Interior interior;
  const std::int64_t* offsets;

  std::int64_t w_elements() const { return product_elements(k, n); }
};

PointwiseArgs common_args(const Conv& c, std::int64_t group) {
  PointwiseArgs a{};
  a.w = c.record.project_w + group * c.w_elements();
  a.w_block_stride = c.k * kBlock;
  a.bias = c.record.project_b + group * round_up(c.n, kBlock);
  a.y_stride = c.record.header->c_out;
  a.k = c.k;
  a.n = c.n;
  a.activation = static_cast<std::int32_t>(c.record.header->activation);
  return a;
}

// The window of one output pixel, zeros where it hangs over.
void gather(const Conv& c, std::int64_t image, std::int64_t group, std::int64_t oy, std::int64_t ox,
            float* to) {
  const Window& w = c.window;
  for (std::int64_t u = 0; u < w.kernel_h; ++u) {
    const std::int64_t iy = oy * w.stride_h - w.pad_top + u * w.dilation_h;
    for (std::int64_t v = 0; v < w.kernel_w; ++v) {
      const std::int64_t ix = ox * w.stride_w - w.pad_left + v * w.dilation_w;
      const bool inside = iy >= 0 && iy < c.x.h && ix >= 0 && ix < c.x.w;
      const float* from = c.x.data + image * c.x.stride_n + iy * c.x.stride_h + ix * c.x.stride_w +
                          group * c.depth * c.x.stride_c;
      for (std::int64_t i = 0; i < c.depth; ++i) *to++ = inside ? from[i * c.x.stride_c] : 0.0f;
    }
  }
}

// Kernel rows [first, last) of the windows of output row oy lie inside the image.
Interior inside_rows(const Conv& c, std::int64_t oy) {
  const Window& w = c.window;
  const std::int64_t top = oy * w.stride_h - w.pad_top;
  std::int64_t first = 0;
  while (first < w.kernel_h && top + first * w.dilation_h < 0) ++first;
  std::int64_t last = first;
  while (last < w.kernel_h && top + last * w.dilation_h < c.x.h) ++last;
  return {first, last};
}

// Output pixels [first, last) of row oy, whose windows lie inside horizontally. Taps of rows
// outside are a contiguous part at the front or the back of the packed order, and are left out.
void inside(const Conv& c, std::int64_t image, std::int64_t group, std::int64_t oy, float* y) {
  const Window& w = c.window;
  const Interior rows = inside_rows(c, oy);
  const std::int64_t per_row = std::int64_t{w.kernel_w} * c.depth;
  const std::int64_t skipped = rows.first * per_row;
  PointwiseArgs a = common_args(c, group);
  const std::int64_t iy = oy * w.stride_h - w.pad_top;
  const std::int64_t ix = c.interior.first * w.stride_w - w.pad_left;
  a.x = c.x.data + image * c.x.stride_n + iy * c.x.stride_h + ix * c.x.stride_w +
        group * c.depth * c.x.stride_c;
  a.x_stride = w.stride_w * c.x.stride_w;
  a.offsets = c.offsets + skipped;
  a.k = (rows.last - rows.first) * per_row;
  a.y = y + c.interior.first * a.y_stride;
  a.m = c.interior.last - c.interior.first;
  a.y_width = a.m;
  a.m_block = plan_m_block(a.m, a.k, a.n, c.run.caches);
  // A half block is narrower: what is skipped has another size there.
  const std::int64_t whole = c.n / kBlock + (c.n % kBlock > kHalfBlock ? 1 : 0);
  const std::int64_t channels = std::min(c.n, whole * kBlock);
  if (channels > 0) {
    PointwiseArgs part = a;
    part.w += skipped * kBlock;
    part.n = channels;
    if (skipped == 0) part.n = c.n;
    c.run.kernels.conv2d_f32(part);
    if (part.n == c.n) return;
  }
  a.w += whole * a.w_block_stride + skipped * kHalfBlock;
  a.bias += whole * kBlock;
  a.y += whole * kBlock;
  a.n = c.n - channels;
  c.run.kernels.conv2d_f32(a);
}

// The edge pixels of output rows [first, last): up to kGather of them share one product.
void edges(const Conv& c, std::int64_t image, std::int64_t group, std::int64_t first,
           std::int64_t last, float* y, float* scratch, std::int64_t capacity) {
  auto column = [&](std::int64_t ox) {
    for (std::int64_t oy = first; oy < last; oy += capacity) {
      const std::int64_t count = std::min(capacity, last - oy);
      for (std::int64_t i = 0; i < count; ++i) {
        gather(c, image, group, oy + i, ox, scratch + i * c.k);
      }
      PointwiseArgs a = common_args(c, group);
      a.x = scratch;
      a.x_stride = c.k;
      a.y = y + (oy * c.ow + ox) * a.y_stride;
      a.y_stride *= c.ow;
      a.y_width = count;
      a.m = count;
      a.m_block = count;
      c.run.kernels.pointwise_f32(a);
    }
  };
  for (std::int64_t ox = 0; ox < c.interior.first; ++ox) column(ox);
  for (std::int64_t ox = c.interior.last; ox < c.ow; ++ox) column(ox);
}

}  // namespace

void run_conv2d(const Run& run, const Record& record, const TensorView& x, float* y) {
  const RecordHeader& h = *record.header;
  const Window window = resolve(h.window, x.h, x.w);
  const Shape out = record_output("run", record, {x.n, x.c, x.h, x.w});
  if (out.n == 0) return;
  Workspace::Scope scope(Workspace::of_this_thread());
  Conv c = {run,
            record,
            x,
            window,
            out.h,
            out.w,
            h.c_in / h.groups,
            std::int64_t{window.kernel_h} * window.kernel_w,
            0,
            h.c_out / h.groups,
            interior_columns(window, x.w, out.w),
            nullptr};
  c.k = c.taps * c.depth;
  std::int64_t* offsets = scope.take<std::int64_t>(c.k);
  c.offsets = offsets;
  for (std::int64_t u = 0; u < window.kernel_h; ++u) {
    for (std::int64_t v = 0; v < window.kernel_w; ++v) {
      for (std::int64_t i = 0; i < c.depth; ++i) {
        *offsets++ = u * window.dilation_h * x.stride_h + v * window.dilation_w * x.stride_w +
                     i * x.stride_c;
      }
    }
  }

  const std::int64_t work = out.h * out.w * c.k * h.c_out;
  const std::int64_t bands = std::min<std::int64_t>(plan_threads(work * out.n, run.threads), out.h);
  constexpr std::int64_t kGather = 12;
  const std::int64_t per_band = round_up(kGather * c.k, kBlock);
  float* scratch = scope.take(per_band * bands);
  run.for_each(bands, [&](std::int64_t band) {
    const std::int64_t first = band * out.h / bands;
    const std::int64_t last = (band + 1) * out.h / bands;
    for (std::int64_t image = 0; image < out.n; ++image) {
      for (std::int64_t group = 0; group < h.groups; ++group) {
        float* to = y + image * out.h * out.w * h.c_out + group * c.n;
        if (c.interior.first < c.interior.last) {
          for (std::int64_t oy = first; oy < last; ++oy) {
            inside(c, image, group, oy, to + oy * out.w * h.c_out);
          }
        }
        edges(c, image, group, first, last, to, scratch + band * per_band, kGather);
      }
    }
  });
}

}  // namespace weebill
