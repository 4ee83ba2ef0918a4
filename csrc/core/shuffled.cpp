// The ends of ShuffleNetV2's unit in training: the channels of two tensors in turn, the second one
// normalised on the way, and the gradient's way back.
#include <algorithm>

#include "core/status.h"
#include "core/training.h"

namespace weebill {
namespace {

// A block of pixels stays in the first cache between two kernels.
constexpr std::int64_t kPixels = 32;

Run run_on(std::int64_t elements) {
  const Run whole = {kernels(), machine_caches(), max_threads()};
  return {whole.kernels, whole.caches, plan_threads(elements * 4, whole.threads)};
}

// body(first pixel, pixels) for blocks of them, a share per thread.
template <typename Body>
void for_pixels(const Run& run, std::int64_t pixels, Body&& body) {
  const std::int64_t tasks = std::min<std::int64_t>(4 * run.threads, ceil_div(pixels, kPixels));
  run.for_shares(tasks, pixels, kPixels, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    for (; first < last; first += kPixels) body(first, std::min(kPixels, last - first));
  });
}

}  // namespace

void normalize_shuffle(const StridedPixels& first, const float* z, const Normalization& normal,
                       float* y) {
  const std::int64_t half = first.channels;
  const Run run = run_on(first.pixels * half);
  const PixelSource second(z, half, normal);
  for_pixels(run, first.pixels, [&](std::int64_t at, std::int64_t count) {
    Workspace::Scope scope(Workspace::of_this_thread());
    const PixelSource::View made =
        second.fetch(run, at, count, 0, half, scope.take(kPixels * half));
    const float* const from[2] = {first.data + at * first.stride, made.data};
    const std::int64_t strides[2] = {first.stride, made.stride};
    run.kernels.channel_shuffle_f32(
        {from, strides, y + at * 2 * half, 2 * half, count, 2, 2 * half});
  });
}

void unshuffle(const float* y, const MutablePixels& first, float* second) {
  const std::int64_t half = first.channels;
  const Run run = run_on(first.pixels * half);
  for_pixels(run, first.pixels, [&](std::int64_t at, std::int64_t count) {
    for (std::int64_t p = at; p < at + count; ++p) {
      const float* from = y + p * 2 * half;
      float* even = first.data + p * first.stride;
      float* odd = second + p * half;
      for (std::int64_t i = 0; i < half; ++i) {
        even[i] = from[2 * i];
        odd[i] = from[2 * i + 1];
      }
    }
  });
}

}  // namespace weebill
