// Channel shuffle on its own: pixels through the kernel, planes by copies.
#include <algorithm>

#include "core/cpu.h"
#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

// As many multiply-adds as moving an element costs, for plan_threads() and plan_call().
constexpr std::int64_t kWorkPerElement = 4;

template <typename T>
void shuffle_pixels(const RunOf<T>& run, const T* x, std::int64_t pixels, std::int64_t channels,
                    std::int64_t groups, T* y) {
  Workspace::Scope scope(Workspace::of_this_thread());
  std::int64_t* strides = scope.take<std::int64_t>(groups);
  std::fill(strides, strides + groups, channels);
  const std::int64_t tasks = plan_threads(pixels * channels * kWorkPerElement, run.threads);
  const T** starts = scope.take<const T*>(groups * tasks);
  run.for_shares(tasks, pixels, 1, [&](std::int64_t first, std::int64_t last, std::int64_t task) {
    const T** mine = starts + task * groups;
    for (std::int64_t j = 0; j < groups; ++j) {
      mine[j] = x + first * channels + j * (channels / groups);
    }
    block::channel_shuffle(run.kernels)(
        {mine, strides, y + first * channels, channels, last - first, groups, channels});
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
  run.for_shares(tasks, pixels, 1, [&](std::int64_t p, std::int64_t last, std::int64_t) {
    for (; p < last; ++p) {
      const T* from = static_cast<const T*>(x) + p * channels;
      T* to = static_cast<T*>(y) + p * channels;
      for (std::int64_t j = 0; j < groups; ++j) {
        for (std::int64_t i = 0; i < per_group; ++i) to[i * groups + j] = *from++;
      }
    }
  });
}

// Every plane is moved whole.
void shuffle_planes(const Run& run, const AnyTensorView& x, std::int64_t groups, void* y) {
  const std::int64_t per_group = x.c / groups;
  const std::int64_t planes = x.n * x.c, plane_bytes = x.h * x.w * x.element_bytes;
  const std::int64_t work = planes * plane_bytes / std::int64_t{sizeof(float)} * kWorkPerElement;
  const std::int64_t tasks = std::min<std::int64_t>(plan_threads(work, run.threads), planes);
  const auto* const from = static_cast<const unsigned char*>(x.data);
  auto* const to = static_cast<unsigned char*>(y);
  run.for_shares(tasks, planes, 1, [&](std::int64_t at, std::int64_t last, std::int64_t) {
    while (at < last) {
      const std::int64_t image = at / x.c, first = at % x.c;
      const std::int64_t count = std::min(last - at, x.c - first);
      run.kernels.shuffle_planes({from + image * x.stride_n * x.element_bytes,
                                  x.stride_c * x.element_bytes, to + at * plane_bytes, plane_bytes,
                                  first, count, groups, per_group});
      at += count;
    }
  });
}

// Any strides, in the order of y.
template <typename T>
void shuffle_strided(const Run& run, const AnyTensorView& x, std::int64_t groups, bool nhwc,
                     void* y) {
  const std::int64_t per_group = x.c / groups;
  const std::int64_t rows = x.n * x.h;
  const std::int64_t tasks =
      std::min<std::int64_t>(plan_threads(rows * x.w * x.c * kWorkPerElement, run.threads), rows);
  const std::int64_t to_c = nhwc ? 1 : x.h * x.w, to_w = nhwc ? x.c : 1;
  const std::int64_t to_h = nhwc ? x.w * x.c : x.w;
  run.for_shares(tasks, rows, 1, [&](std::int64_t row, std::int64_t last, std::int64_t) {
    for (; row < last; ++row) {
      const std::int64_t image = row / x.h, i = row % x.h;
      const T* from = static_cast<const T*>(x.data) + image * x.stride_n + i * x.stride_h;
      T* to = static_cast<T*>(y) + image * x.c * x.h * x.w + i * to_h;
      for (std::int64_t c = 0; c < x.c; ++c) {
        const T* source = from + (c % groups * per_group + c / groups) * x.stride_c;
        for (std::int64_t j = 0; j < x.w; ++j) to[c * to_c + j * to_w] = source[j * x.stride_w];
      }
    }
  });
}

template <typename T>
void shuffle(const Run& run, const AnyTensorView& x, std::int64_t groups, bool nhwc, void* y) {
  const bool pixels = (x.c == 1 || x.stride_c == 1) && (x.w == 1 || x.stride_w == x.c) &&
                      (x.h == 1 || x.stride_h == x.w * x.c) &&
                      (x.n == 1 || x.stride_n == x.h * x.w * x.c);
  const bool planes = (x.w == 1 || x.stride_w == 1) && (x.h == 1 || x.stride_h == x.w);
  if (!nhwc && planes) {
    shuffle_planes(run, x, groups, y);
  } else if (!nhwc || !pixels) {
    shuffle_strided<T>(run, x, groups, nhwc, y);
  } else if constexpr (sizeof(T) == sizeof(float)) {
    shuffle_pixels(run, static_cast<const float*>(x.data), x.n * x.h * x.w, x.c, groups,
                   static_cast<float*>(y));
  } else {
    shuffle_elements<T>(run, x.data, x.n * x.h * x.w, x.c, groups, y);
  }
}

}  // namespace

template <typename T>
void run_channel_shuffle(const RunOf<T>& run, const Record& record, const T* x, const Shape& shape,
                         T* y) {
  shuffle_pixels(run, x, shape.h * shape.w, shape.c, record.header->groups, y);
}

void channel_shuffle(const AnyTensorView& x, std::int64_t groups, bool nhwc, void* y) {
  const std::string op = "channel_shuffle";
  check(groups >= 1 && x.c % groups == 0, op, ": groups must divide the ", x.c,
        " channels of x, got ", groups);
  const std::int64_t elements = x.n * x.c * x.h * x.w;
  const Run run = {kernels(), machine_caches(),
                   plan_call(elements * kWorkPerElement, x.n, max_threads()).threads};
  void (*move)(const Run&, const AnyTensorView&, std::int64_t, bool, void*) = nullptr;
  switch (x.element_bytes) {
    case 1:
      move = shuffle<Element<1>>;
      break;
    case 2:
      move = shuffle<Element<2>>;
      break;
    case 4:
      move = shuffle<Element<4>>;
      break;
    case 8:
      move = shuffle<Element<8>>;
      break;
    case 16:
      move = shuffle<Element<16>>;
      break;
    default:
      throw ValueError(
          concat(op, ": x must have elements of 1, 2, 4, 8 or 16 bytes, got ", x.element_bytes));
  }
  if (elements > 0) move(run, x, groups, nhwc, y);
}

template void run_channel_shuffle(const Run&, const Record&, const float*, const Shape&, float*);
template void run_channel_shuffle(const RunOf<Half>&, const Record&, const Half*, const Shape&,
                                  Half*);

}  // namespace weebill
