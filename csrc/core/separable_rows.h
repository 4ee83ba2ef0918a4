// What a depthwise block's rows go through: its geometry, the rows that a window lies on, and the
// kernels that make a row of outputs of them. Internal to the core, for separable.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/drivers.h"
#include "core/workspace.h"

namespace weebill {

template <typename T>
struct SeparableBlock {
  const RunOf<T>& run;
  const Record& record;
  const RecordHeader& h;
  Window window;
  SeparableProblem problem;
  SeparablePlan plan;
  Pixels<T> input;
  std::int64_t y_stride;

  const T* pixel(std::int64_t p) const { return input.x + p * input.pixel_stride; }

  // In memory of our own, pixels are made of whole vectors, and no kernel has a tail: the channels
  // beyond the last have weights and biases of zero, and nothing reads them.
  std::int64_t ring_channels(std::int64_t channels) const { return round_up(channels, kHalfBlock); }
  std::int64_t middle_channels(std::int64_t channels) const {
    return problem.has_expand && problem.has_project ? round_up(channels, kHalfBlock) : channels;
  }
  // From a pixel to the next there.
  std::int64_t ring_stride(std::int64_t channels) const {
    return problem.has_expand ? scratch_stride<T>(run.caches, ring_channels(channels))
                              : ring_channels(channels);
  }
  std::int64_t middle_stride() const {
    const std::int64_t channels = middle_channels(problem.c_mid);
    return problem.has_project ? scratch_stride<T>(run.caches, channels) : channels;
  }

  std::int64_t ring_pixels() const { return plan.ring_rows * plan.ring_columns; }
  // Where the ring of a chunk begins that has so many channels before it, in chunks.
  std::int64_t ring_at(std::int64_t channels) const {
    return channels / plan.chunk * ring_stride(plan.chunk) * ring_pixels();
  }
};

// The rows of the depthwise input that one task holds: of the image itself, or of the expansion.
template <typename T>
struct Rows {
  const T* data;  // row 0 (or slot 0 of the ring)
  std::int64_t row_stride, pixel_stride;
  std::int64_t slots;  // ring rows, or the image's
  bool padded;         // a row begins with pad_left pixels of zeros and covers every window

  const T* row(std::int64_t y) const {
    return data + (y < slots ? y : y % slots) * row_stride;  // a division takes its time
  }
};

template <typename T>
using RowKernel = void (*)(const DepthwiseArgsOf<T>&);

template <typename T>
RowKernel<T> tuned_kernel(const RunOf<T>& run, const Window& w) {
  if (!has_depthwise_tiles(w)) return nullptr;
  const bool three = w.kernel_w == 3;
  if (w.stride_w == 1) {
    return three ? block::depthwise_k3s1(run.kernels) : block::depthwise_k5s1(run.kernels);
  }
  return three ? block::depthwise_k3s2(run.kernels) : block::depthwise_k5s2(run.kernels);
}

// Rows outside the image are left out, columns outside come from the padding or are left out.
template <typename T>
class DepthwiseRow {
 public:
  DepthwiseRow(const SeparableBlock<T>& block, const Rows<T>& rows, std::int64_t first_channel,
               std::int64_t channels)
      : block_(block),
        rows_(rows),
        tuned_(tuned_kernel(block.run, block.window)),
        interior_(rows.padded || block.plan.bare
                      ? Interior{0, block.problem.ow}
                      : interior_columns(block.window, block.problem.w, block.problem.ow)),
        scope_(Workspace::of_this_thread()),
        row_at_(scope_.take<const T*>(2 * block.window.kernel_h)),
        shifted_(row_at_ + block.window.kernel_h) {
    const Window& w = block.window;
    const std::int64_t taps = std::int64_t{w.kernel_h} * w.kernel_w;
    args_.x_stride = rows.pixel_stride;
    args_.w = block.record.depthwise_w.template as<T>() + first_channel * taps;
    args_.bias = block.record.depthwise_b.template as<T>() + first_channel;
    args_.channels = channels;
    args_.activation = static_cast<std::int32_t>(block.h.depthwise_activation);
    args_.stream = block.run.streams;
    if (block.plan.bare && block.run.streams && block.run.caches.foresees_tiles) {
      next_.row_stride = rows.row_stride;
      args_.ahead = &next_;
    }
    only(interior_);
  }

  /// Of columns that are not at an edge, these from now on.
  void only(Interior columns) {
    made_ = columns;
    const bool zeros = (rows_.padded || block_.plan.bare) && tuned_ != nullptr;
    args_.zeros_left = zeros && columns.first == 0 ? block_.window.pad_left : 0;
    args_.zeros_right =
        zeros && columns.last == block_.problem.ow ? zeros_right(block_.problem) : 0;
  }

  void operator()(std::int64_t oy, T* y, std::int64_t y_stride, float* sum) {
    const Window& w = block_.window;
    const std::int64_t top = oy * w.stride_h - w.pad_top;
    args_.first_row = 0;
    args_.rows = 0;
    for (std::int64_t u = 0; u < w.kernel_h; ++u) {
      const std::int64_t iy = top + u * w.dilation_h;
      if (iy < 0) {
        args_.first_row = u + 1;
      } else if (iy < block_.problem.h) {
        row_at_[args_.rows++] = rows_.row(iy);
      }
    }
    if (args_.rows == 0) args_.first_row = 0;
    args_.sum = sum;
    args_.y_stride = y_stride;
    if (args_.ahead != nullptr) next_.x = behind(top + std::int64_t{w.kernel_h - 1} * w.dilation_h);
    const std::int64_t ow = block_.problem.ow;
    for (std::int64_t ox = 0; ox < interior_.first; ++ox) edge(ox, y);
    if (made_.first < made_.last) {
      const std::int64_t ix = made_.first * w.stride_w - (rows_.padded ? 0 : w.pad_left);
      columns(ix, 0, w.kernel_w, made_.last - made_.first, y + made_.first * y_stride, tuned_);
    }
    for (std::int64_t ox = std::max(interior_.first, interior_.last); ox < ow; ++ox) {
      edge(ox, y);
    }
  }

 private:
  // NextRowsOf::x: the row behind row iy; below the last one that of the next image, or anything.
  const T* behind(std::int64_t iy) const {
    const Window& w = block_.window;
    const std::int64_t ix = made_.first * w.stride_w + w.kernel_w / 2 - w.pad_left;
    const std::int64_t at = (iy + 1) * rows_.row_stride + ix * rows_.pixel_stride;
    return reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(rows_.data) +
                                      static_cast<std::uintptr_t>(at) * sizeof(T));
  }

  void edge(std::int64_t ox, T* y) {
    const Window& w = block_.window;
    const std::int64_t left = ox * w.stride_w - w.pad_left;
    std::int64_t first = 0;
    while (first < w.kernel_w && left + first * w.dilation_w < 0) ++first;
    std::int64_t last = first;
    while (last < w.kernel_w && left + last * w.dilation_w < block_.problem.w) ++last;
    // No tap inside: any pixel does as an address.
    const std::int64_t ix = first == last ? 0 : left + first * w.dilation_w;
    columns(ix, first, last - first, 1, y + ox * args_.y_stride, nullptr);
  }

  void columns(std::int64_t ix, std::int64_t first_tap, std::int64_t taps, std::int64_t count, T* y,
               RowKernel<T> tuned) {
    for (std::int64_t u = 0; u < args_.rows; ++u) shifted_[u] = row_at_[u] + ix * args_.x_stride;
    args_.x_rows = shifted_;
    args_.columns = count;
    args_.y = y;
    if (tuned != nullptr) {
      tuned(args_);
      return;
    }
    const Window& w = block_.window;
    block::depthwise_any(block_.run.kernels)(
        {args_, w.kernel_h, w.kernel_w, w.stride_w, w.dilation_w, first_tap, taps});
  }

  const SeparableBlock<T>& block_;
  const Rows<T>& rows_;
  const RowKernel<T> tuned_;
  const Interior interior_;
  Interior made_{};
  NextRowsOf<T> next_{};
  DepthwiseArgsOf<T> args_{};
  Workspace::Scope scope_;
  const T** const row_at_;   // the rows under the window, inside the image
  const T** const shifted_;  // where in them its columns begin
};

}  // namespace weebill
