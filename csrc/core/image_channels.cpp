// What squeeze-and-excitation in training does to whole images: a number per image and channel,
// from all of the image's pixels or to all of them.
#include <algorithm>

#include "core/status.h"
#include "core/training.h"

namespace weebill {
namespace {

Run run_on(const Shape& s) {
  const Run whole = {kernels(), machine_caches(), max_threads()};
  return {whole.kernels, whole.caches, plan_threads(s.n * s.c * s.h * s.w * 2, whole.threads)};
}

}  // namespace

void channel_means(const float* x, const Shape& s, float* means) {
  const Run run = run_on(s);
  const std::int64_t pixels = s.h * s.w;
  run.for_each(s.n, [&](std::int64_t n) {
    float* mean = means + n * s.c;
    std::fill_n(mean, s.c, 0.0f);
    run.kernels.sum_f32({x + n * pixels * s.c, s.c, mean, pixels, s.c});
    for (std::int64_t c = 0; c < s.c; ++c) mean[c] /= static_cast<float>(pixels);
  });
}

void scale_channels(const float* x, const Shape& s, const float* scale, const float* shift,
                    float* y) {
  const Run run = run_on(s);
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* zeros = scope.zeros(s.c);  // in the place of means, which kernels subtract
  const std::int64_t pixels = s.h * s.w;
  const bool streams = s.n * pixels * s.c >= kStreamedElements;
  run.for_each(s.n, [&](std::int64_t n) {
    const std::int64_t at = n * pixels * s.c;
    run.kernels.normalize_f32({x + at, s.c, zeros, scale + n * s.c,
                               shift != nullptr ? shift + n * s.c : zeros, y + at, s.c, pixels, s.c,
                               kActNone, streams});
    if (streams) publish_streams();
  });
}

void channel_dots(const float* dy, const float* x, const Shape& s, float* dots) {
  const Run run = run_on(s);
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* zeros = scope.zeros(s.c);  // in the place of means, which kernels subtract
  float* sums = scope.take(s.n * s.c);    // of dy, which nobody asked for
  const std::int64_t pixels = s.h * s.w;
  run.for_each(s.n, [&](std::int64_t n) {
    const std::int64_t at = n * pixels * s.c;
    float *sum = sums + n * s.c, *dot = dots + n * s.c;
    std::fill_n(sum, s.c, 0.0f);
    std::fill_n(dot, s.c, 0.0f);
    run.kernels.normalize_sums_f32(
        {dy + at, s.c, x + at, s.c, zeros, zeros, zeros, sum, dot, pixels, s.c, kActNone});
  });
}

}  // namespace weebill
