// Channel shuffle on its own: pixels through the kernel, planes by copies.
#include <algorithm>
#include <cstring>

#include "core/cpu.h"
#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

// As many multiply-adds as moving an element costs, for plan_threads().
constexpr std::int64_t kWorkPerElement = 4;

void shuffle_pixels(const Run& run, const float* x, std::int64_t pixels, std::int64_t channels,
                    std::int64_t groups, float* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  std::int64_t* strides = scope.take<std::int64_t>(groups);
  std::fill(strides, strides + groups, channels);
  const std::int64_t tasks = plan_threads(pixels * channels * kWorkPerElement, run.threads);
  const float** starts = scope.take<const float*>(groups * tasks);
  run.for_each(tasks, [&](std::int64_t task) {
    const std::int64_t first = task * pixels / tasks;
    const std::int64_t count = (task + 1) * pixels / tasks - first;
    const float** mine = starts + task * groups;
    for (std::int64_t j = 0; j < groups; ++j) {
      mine[j] = x + first * channels + j * (channels / groups);
    }
    run.kernels.channel_shuffle_f32(
        {mine, strides, y + first * channels, channels, count, groups, channels});
  });
}

// An element of any type, moved as what it is: so many bytes.
template <std::size_t kBytes>
struct Element {
  std::byte bytes[kBytes];
};

template <typename T>
void shuffle_elements(const Run& run, const void* x, std::int64_t pixels, std::int64_t channels,
                      std::int64_t groups, void* y) {
  const std::int64_t tasks = plan_threads(pixels * channels * kWorkPerElement, run.threads);
  const std::int64_t per_group = channels / groups;
  run.for_each(tasks, [&](std::int64_t task) {
    for (std::int64_t p = task * pixels / tasks; p < (task + 1) * pixels / tasks; ++p) {
      const T* from = static_cast<const T*>(x) + p * channels;
      T* to = static_cast<T*>(y) + p * channels;
      for (std::int64_t j = 0; j < groups; ++j) {
        for (std::int64_t i = 0; i < per_group; ++i) to[i * groups + j] = *from++;
      }
    }
  });
}

// Every plane is moved whole.
void shuffle_planes(const Run& run, const Shape& s, std::int64_t groups, std::int64_t plane_bytes,
                    const void* x, void* y) {
  const std::int64_t per_group = s.c / groups;
  const std::int64_t planes = s.n * s.c;
  const std::int64_t work = planes * plane_bytes / std::int64_t{sizeof(float)} * kWorkPerElement;
  const std::int64_t tasks = std::min<std::int64_t>(plan_threads(work, run.threads), planes);
  run.for_each(tasks, [&](std::int64_t task) {
    for (std::int64_t at = task * planes / tasks; at < (task + 1) * planes / tasks; ++at) {
      const std::int64_t image = at / s.c, c = at % s.c;
      const std::int64_t source = image * s.c + c % groups * per_group + c / groups;
      std::memcpy(static_cast<std::byte*>(y) + at * plane_bytes,
                  static_cast<const std::byte*>(x) + source * plane_bytes,
                  static_cast<std::size_t>(plane_bytes));
    }
  });
}

}  // namespace

void run_channel_shuffle(const Run& run, const Record& record, const float* x, const Shape& shape,
                         float* y) {
  shuffle_pixels(run, x, shape.h * shape.w, shape.c, record.header->groups, y);
}

void channel_shuffle(const Shape& s, std::int64_t groups, std::int64_t element_bytes, bool nhwc,
                     const void* x, void* y) {
  const std::string op = "channel_shuffle";
  check(groups >= 1 && s.c % groups == 0, op, ": groups must divide the ", s.c,
        " channels of x, got ", groups);
  const std::int64_t pixels = s.n * s.h * s.w;
  if (pixels * s.c == 0) return;
  const Run run = {kernels(), machine_caches(), max_threads()};
  if (!nhwc) {
    shuffle_planes(run, s, groups, s.h * s.w * element_bytes, x, y);
    return;
  }
  switch (element_bytes) {
    case 1:
      return shuffle_elements<Element<1>>(run, x, pixels, s.c, groups, y);
    case 2:
      return shuffle_elements<Element<2>>(run, x, pixels, s.c, groups, y);
    case 4:
      return shuffle_pixels(run, static_cast<const float*>(x), pixels, s.c, groups,
                            static_cast<float*>(y));
    case 8:
      return shuffle_elements<Element<8>>(run, x, pixels, s.c, groups, y);
    case 16:
      return shuffle_elements<Element<16>>(run, x, pixels, s.c, groups, y);
    default:
      throw ValueError(concat(op, ": element_bytes must be 1, 2, 4, 8 or 16, got ", element_bytes));
  }
}

}  // namespace weebill
