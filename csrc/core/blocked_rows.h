// Rows of an image in scratch as depthwise kernels like them. Internal to the core.
//
// A block of 16 channels is an image of its own, a cache line per pixel, with zeros around it: no
// kernel meets an edge, and the rows under a window stay in the first cache, which in the image's
// own layout they would share with channels that are not in turn.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/record.h"
#include "core/training.h"

namespace weebill {

struct RowRange {
  std::int64_t first, last;
};

class BlockedRows {
 public:
  struct Geometry {
    std::int64_t height, width;  ///< of the image
    std::int64_t left, columns;  ///< columns of zeros before it, and all columns in scratch
    std::int64_t rows;           ///< at most held at once
    std::int64_t channels;
  };

  BlockedRows(const Run& run, const PixelSource& source, const Geometry& geometry,
              Workspace::Scope& scope)
      : run_(run),
        source_(source),
        g_(geometry),
        // An odd number of lines: blocks at a power of two of bytes would share few sets of the
        // cache.
        block_((g_.rows * g_.columns | 1) * kBlock),
        data_(scope.take(block_ * ceil_div(g_.channels, kBlock))) {}

  /// Row `first` of the held ones, column 0 of the scratch, block 0.
  const float* data() const { return data_; }
  /// From one block of channels to the next.
  std::int64_t block_stride() const { return block_; }
  std::int64_t row_stride() const { return g_.columns * kBlock; }

  /// Nothing of the next image is there.
  void begin(std::int64_t image, std::int64_t channel) {
    image_ = image;
    channel_ = channel;
    held_ = {0, 0};
  }

  /// Rows [first, last), those outside of the image zeros. What is there already is moved.
  void hold(const RowRange& rows) {
    RowRange missing = rows;
    if (held_.first <= rows.first && rows.first < held_.last) {
      const std::int64_t row = row_stride();
      missing.first = std::min(held_.last, rows.last);
      for (std::int64_t c = 0; c < g_.channels; c += kBlock) {
        float* first = data_ + c / kBlock * block_;
        std::memmove(first, first + (rows.first - held_.first) * row,
                     static_cast<std::size_t>((missing.first - rows.first) * row) * sizeof(float));
      }
    }
    held_ = rows;
    for (std::int64_t r = missing.first; r < missing.last; ++r) {
      copy(r, data_ + (r - rows.first) * row_stride());
    }
  }

 private:
  void copy(std::int64_t r, float* to) const {
    const std::int64_t inside = std::clamp<std::int64_t>(g_.columns - g_.left, 0, g_.width);
    const std::int64_t before = std::min(g_.left, g_.columns);
    if (r < 0 || r >= g_.height) {
      clear(to, g_.columns);
      return;
    }
    clear(to, before);
    source_.fetch_blocks(run_, (image_ * g_.height + r) * g_.width, inside, channel_, g_.channels,
                         to + before * kBlock, block_);
    clear(to + (before + inside) * kBlock, g_.columns - before - inside);
  }

  void clear(float* pixels, std::int64_t count) const {
    for (std::int64_t c = 0; c < g_.channels; c += kBlock) {
      std::fill_n(pixels + c / kBlock * block_, count * kBlock, 0.0f);
    }
  }

  const Run& run_;
  const PixelSource& source_;
  const Geometry g_;
  const std::int64_t block_;
  float* data_;
  std::int64_t image_ = 0, channel_ = 0;
  RowRange held_ = {0, 0};
};

}  // namespace weebill
