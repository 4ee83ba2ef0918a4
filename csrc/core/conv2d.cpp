// Dense convolution: windows inside the image go straight through a table of offsets, in any memory
// layout; windows that hang over an edge are gathered into rows of a matrix first.
#include "core/conv2d.h"

#include <algorithm>

namespace weebill {

template <typename T>
Conv2dRows<T>::Conv2dRows(const RunOf<T>& run, const Record& record, const TensorViewOf<T>& x,
                          Workspace::Scope& scope)
    : run_(run),
      record_(record),
      x_(x),
      window_(resolve(record.header->window, x.h, x.w)),
      out_(record_output("run", record, {x.n, x.c, x.h, x.w})),
      interior_(interior_columns(window_, x.w, out_.w)),
      depth_(record.header->c_in / record.header->groups),
      k_(std::int64_t{window_.kernel_h} * window_.kernel_w * depth_),
      n_(record.header->c_out / record.header->groups),
      m_block_(plan_m_block(interior_.last - interior_.first, k_, false, run.caches)) {
  std::int64_t* offset = scope.take<std::int64_t>(k_);
  offsets_ = offset;
  for (std::int64_t u = 0; u < window_.kernel_h; ++u) {
    for (std::int64_t v = 0; v < window_.kernel_w; ++v) {
      for (std::int64_t i = 0; i < depth_; ++i) {
        *offset++ = u * window_.dilation_h * x.stride_h + v * window_.dilation_w * x.stride_w +
                    i * x.stride_c;
      }
    }
  }
}

template <typename T>
PointwiseArgsOf<T> Conv2dRows<T>::common_args(std::int64_t group) const {
  PointwiseArgsOf<T> a{};
  a.w = record_.project_w.as<T>() + group * product_elements(k_, n_);
  a.w_block_stride = k_ * kBlock;
  a.bias = record_.project_b.as<T>() + group * round_up(n_, kBlock);
  a.y_stride = out_.c;
  a.k = k_;
  a.n = n_;
  a.activation = static_cast<std::int32_t>(record_.header->activation);
  return a;
}

template <typename T>
const T* Conv2dRows<T>::input(std::int64_t image, std::int64_t group, std::int64_t iy,
                              std::int64_t ix) const {
  return x_.data + image * x_.stride_n + iy * x_.stride_h + ix * x_.stride_w +
         group * depth_ * x_.stride_c;
}

// The window of one output pixel, zeros where it hangs over.
template <typename T>
void Conv2dRows<T>::gather(std::int64_t image, std::int64_t group, std::int64_t oy, std::int64_t ox,
                           T* to) const {
  const Window& w = window_;
  for (std::int64_t u = 0; u < w.kernel_h; ++u) {
    const std::int64_t iy = oy * w.stride_h - w.pad_top + u * w.dilation_h;
    for (std::int64_t v = 0; v < w.kernel_w; ++v) {
      const std::int64_t ix = ox * w.stride_w - w.pad_left + v * w.dilation_w;
      const bool is_inside = iy >= 0 && iy < x_.h && ix >= 0 && ix < x_.w;
      const T* from = input(image, group, iy, ix);
      for (std::int64_t i = 0; i < depth_; ++i) *to++ = is_inside ? from[i * x_.stride_c] : T{};
    }
  }
}

// Kernel rows [first, last) of the windows of output row oy lie inside the image.
template <typename T>
Interior Conv2dRows<T>::inside_rows(std::int64_t oy) const {
  const Window& w = window_;
  const std::int64_t top = oy * w.stride_h - w.pad_top;
  std::int64_t first = 0;
  while (first < w.kernel_h && top + first * w.dilation_h < 0) ++first;
  std::int64_t last = first;
  while (last < w.kernel_h && top + last * w.dilation_h < x_.h) ++last;
  return {first, last};
}

// The pixels of output row oy, which begins at y, whose windows lie inside horizontally. Taps of
// rows outside are a contiguous part at the front or the back of the packed order, and are left
// out.
template <typename T>
void Conv2dRows<T>::inside(std::int64_t image, std::int64_t group, std::int64_t oy, T* y) const {
  const Window& w = window_;
  const Interior kernel_rows = inside_rows(oy);
  const std::int64_t per_row = std::int64_t{w.kernel_w} * depth_;
  const std::int64_t skipped = kernel_rows.first * per_row;
  PointwiseArgsOf<T> a = common_args(group);
  a.x = input(image, group, oy * w.stride_h - w.pad_top, interior_.first * w.stride_w - w.pad_left);
  a.x_stride = w.stride_w * x_.stride_w;
  a.offsets = offsets_ + skipped;
  a.k = (kernel_rows.last - kernel_rows.first) * per_row;
  a.y = y + interior_.first * a.y_stride;
  a.m = interior_.last - interior_.first;
  a.y_width = a.m;
  a.m_block = m_block_;
  // A half block is narrower: what is skipped has another size there.
  const std::int64_t whole = n_ / kBlock + (n_ % kBlock > kHalfBlock ? 1 : 0);
  const std::int64_t channels = std::min(n_, whole * kBlock);
  if (channels > 0) {
    PointwiseArgsOf<T> part = a;
    part.w += skipped * kBlock;
    part.n = channels;
    if (skipped == 0) part.n = n_;
    block::conv2d(run_.kernels)(part);
    if (part.n == n_) return;
  }
  a.w += whole * a.w_block_stride + skipped * kHalfBlock;
  a.bias += whole * kBlock;
  a.y += whole * kBlock;
  a.n = n_ - channels;
  block::conv2d(run_.kernels)(a);
}

// The edge pixels of output rows [first, last), the first of which begins at y: up to kGather of
// them share one product.
template <typename T>
void Conv2dRows<T>::edges(std::int64_t image, std::int64_t group, std::int64_t first,
                          std::int64_t last, T* y, T* scratch) const {
  auto column = [&](std::int64_t ox) {
    for (std::int64_t oy = first; oy < last; oy += kGather) {
      const std::int64_t count = std::min(kGather, last - oy);
      for (std::int64_t i = 0; i < count; ++i) {
        gather(image, group, oy + i, ox, scratch + i * k_);
      }
      PointwiseArgsOf<T> a = common_args(group);
      a.x = scratch;
      a.x_stride = k_;
      a.y = y + ((oy - first) * out_.w + ox) * a.y_stride;
      a.y_stride *= out_.w;
      a.y_width = count;
      a.m = count;
      a.m_block = count;
      block::pointwise(run_.kernels)(a);
    }
  };
  for (std::int64_t ox = 0; ox < interior_.first; ++ox) column(ox);
  for (std::int64_t ox = interior_.last; ox < out_.w; ++ox) column(ox);
}

template <typename T>
void Conv2dRows<T>::rows(std::int64_t image, std::int64_t first, std::int64_t last, T* y,
                         T* scratch) const {
  for (std::int64_t group = 0; group < record_.header->groups; ++group) {
    T* to = y + group * n_;
    if (interior_.first < interior_.last) {
      for (std::int64_t oy = first; oy < last; ++oy) {
        inside(image, group, oy, to + (oy - first) * out_.w * out_.c);
      }
    }
    edges(image, group, first, last, to, scratch);
  }
}

template <typename T>
void run_conv2d(const RunOf<T>& run, const Record& record, const TensorViewOf<T>& x, T* y) {
  if (x.n == 0) return;
  Workspace::Scope scope(Workspace::of_this_thread());
  const Conv2dRows<T> conv(run, record, x, scope);
  const Shape& out = conv.shape();
  const std::int64_t work = conv.work() * out.n;
  const std::int64_t bands = plan_tasks(out.h, work, plan_threads(work, run.threads));
  run.for_shares(bands, out.h, 1, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    Workspace::Scope task_scope(Workspace::of_this_thread());
    T* scratch = task_scope.take<T>(conv.scratch_elements());
    for (std::int64_t image = 0; image < out.n; ++image) {
      conv.rows(image, first, last, y + (image * out.h + first) * out.w * out.c, scratch);
    }
  });
}

template class Conv2dRows<float>;
template class Conv2dRows<Half>;
template void run_conv2d(const Run&, const Record&, const TensorView&, float*);
template void run_conv2d(const RunOf<Half>&, const Record&, const HalfTensorView&, Half*);

}  // namespace weebill
