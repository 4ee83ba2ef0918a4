// Images in memory: whether they lie as the kernels read them, and copies of those that do not.
#include <algorithm>

#include "core/drivers.h"

namespace weebill {
namespace {

// A view of any strides to dense NHWC.
template <typename T>
void copy_to_nhwc(const RunOf<T>& run, const TensorViewOf<T>& x, T* y) {
  const std::int64_t image = x.h * x.w * x.c;
  const bool planes = (x.w == 1 || x.stride_w == 1) && (x.h == 1 || x.stride_h == x.w);
  for (std::int64_t n = 0; n < x.n; ++n) {
    const T* from = x.data + n * x.stride_n;
    T* to = y + n * image;
    if (planes) {
      block::interleave(run.kernels)({from, x.stride_c, to, x.h * x.w, x.c});
      continue;
    }
    for (std::int64_t i = 0; i < x.h; ++i) {
      for (std::int64_t j = 0; j < x.w; ++j) {
        const T* pixel = from + i * x.stride_h + j * x.stride_w;
        if (x.stride_c == 1) {
          to = std::copy_n(pixel, x.c, to);
        } else {
          for (std::int64_t c = 0; c < x.c; ++c) *to++ = pixel[c * x.stride_c];
        }
      }
    }
  }
}

}  // namespace

template <typename T>
std::int64_t pixel_stride(const TensorViewOf<T>& x) {
  const std::int64_t stride = x.w > 1   ? x.stride_w
                              : x.h > 1 ? x.stride_h
                              : x.n > 1 ? x.stride_n
                                        : x.c;
  const bool pixels = (x.c == 1 || x.stride_c == 1) && stride >= x.c &&
                      (x.h == 1 || x.stride_h == x.w * stride) &&
                      (x.n == 1 || x.stride_n == x.h * x.w * stride);
  return pixels ? stride : 0;
}

template <typename T>
const T* nhwc_data(const RunOf<T>& run, const TensorViewOf<T>& x, Workspace::Scope& scope) {
  if (pixel_stride(x) == x.c) return x.data;
  const std::int64_t image = x.h * x.w * x.c;
  T* copy = scope.take<T>(x.n * image);
  run.for_each(x.n, [&](std::int64_t n) {
    TensorViewOf<T> one = x;
    one.data += n * x.stride_n;
    one.n = 1;
    copy_to_nhwc(run, one, copy + n * image);
  });
  return copy;
}

template const float* nhwc_data(const Run&, const TensorView&, Workspace::Scope&);
template const Half* nhwc_data(const RunOf<Half>&, const HalfTensorView&, Workspace::Scope&);
template std::int64_t pixel_stride(const TensorView&);
template std::int64_t pixel_stride(const HalfTensorView&);

}  // namespace weebill
