// Pixels and sums of the layers in training.
#include "core/training.h"

#include <algorithm>
#include <vector>

namespace weebill {

void PixelSource::make(const Run& run, std::int64_t first, std::int64_t count, std::int64_t channel,
                       std::int64_t channels, float* out, std::int64_t stride,
                       std::int64_t block_stride) const {
  const Normalizer n(normal_);
  const float *mean = n.mean + channel, *scale = n.scale + channel, *shift = n.shift + channel;
  const float* x = x_ + first * stride_ + channel;
  if (dy_ == nullptr) {
    run.kernels.normalize_f32({x, stride_, mean, scale, shift, out, stride, count, channels,
                               n.activation, /*stream=*/false, block_stride});
  } else {
    run.kernels.normalize_backward_f32({dy_ + first * stride_ + channel, stride_, x, stride_, mean,
                                        scale, shift, offset_ + channel, slope_ + channel, out,
                                        stride, count, channels, n.activation, /*stream=*/false,
                                        block_stride});
  }
}

PixelSource::View PixelSource::fetch(const Run& run, std::int64_t first, std::int64_t count,
                                     std::int64_t channel, std::int64_t channels,
                                     float* scratch) const {
  if (!is_made()) return {x_ + first * stride_ + channel, stride_};
  make(run, first, count, channel, channels, scratch, channels, kBlock);
  return {scratch, channels};
}

void PixelSource::fetch_blocks(const Run& run, std::int64_t first, std::int64_t count,
                               std::int64_t channel, std::int64_t channels, float* out,
                               std::int64_t block_stride) const {
  if (is_made()) {
    make(run, first, count, channel, channels, out, kBlock, block_stride);
  } else {
    run.kernels.block_copy_f32(
        {x_ + first * stride_ + channel, stride_, out, block_stride, count, channels});
  }
}

PixelSource::View PixelSource::all(const Run& run, std::int64_t pixels, std::int64_t channels,
                                   Workspace::Scope& scope) const {
  if (!is_made()) return {x_, stride_};
  float* made = scope.take(pixels * channels);
  const std::int64_t tasks = std::min<std::int64_t>(run.threads, pixels);
  run.for_shares(tasks, pixels, 1, [&](std::int64_t first, std::int64_t last, std::int64_t) {
    fetch(run, first, last - first, 0, channels, made + first * channels);
  });
  return {made, channels};
}

GroupSums::GroupSums(std::int64_t groups, std::int64_t channels, Workspace::Scope& scope)
    : groups_(groups),
      channels_(channels),
      width_(round_up(channels, kBlock)),
      totals_(scope.take<double>(2 * width_ * groups)),
      parts_(scope.take(2 * width_ * groups)),
      pending_(scope.take<std::int64_t>(width_ / kBlock * groups)) {}

void GroupSums::begin(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
  for (const std::int64_t at :
       {2 * width_ * group + channel, 2 * width_ * group + width_ + channel}) {
    std::fill_n(totals_ + at, channels, 0.0);
    std::fill_n(parts_ + at, channels, 0.0f);
  }
  pending(group, channel) = 0;
}

void GroupSums::flush(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
  for (const std::int64_t at :
       {2 * width_ * group + channel, 2 * width_ * group + width_ + channel}) {
    for (std::int64_t c = at; c < at + channels; ++c) {
      totals_[c] += static_cast<double>(parts_[c]);
      parts_[c] = 0;
    }
  }
  pending(group, channel) = 0;
}

void GroupSums::totals(double* first, double* second) const {
  std::fill_n(first, channels_, 0.0);
  std::fill_n(second, channels_, 0.0);
  for (std::int64_t g = 0; g < groups_; ++g) {
    for (std::int64_t c = 0; c < channels_; ++c) {
      first[c] += this->first(g, c);
      second[c] += this->second(g, c);
    }
  }
}

Moments::Moments(std::int64_t groups, std::int64_t channels, Workspace::Scope& scope)
    : sums_(groups, channels, scope),
      channels_(channels),
      width_(round_up(channels, kBlock)),
      shifts_(scope.take(width_ * groups)),
      counts_(scope.take<std::int64_t>(width_ / kBlock * groups)) {}

void Moments::begin(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
  sums_.begin(group, channel, channels);
  count(group, channel) = 0;
}

void Moments::add(const Run& run, std::int64_t group, std::int64_t channel, std::int64_t channels,
                  const float* x, std::int64_t stride, std::int64_t pixels) const {
  float* shift = shifts_ + width_ * group + channel;
  std::int64_t& seen = count(group, channel);
  if (seen == 0) {
    const std::int64_t samples = std::min<std::int64_t>(pixels, 32);
    std::fill_n(shift, channels, 0.0f);
    run.kernels.sum_f32({x, stride, shift, samples, channels});
    for (std::int64_t c = 0; c < channels; ++c) shift[c] /= static_cast<float>(samples);
  }
  seen += pixels;
  for (std::int64_t first = 0; first < pixels; first += GroupSums::kPixelsInFloat) {
    const std::int64_t some = std::min(GroupSums::kPixelsInFloat, pixels - first);
    sums_.add(group, channel, channels, some, [&](float* sum, float* square) {
      run.kernels.moments_f32({x + first * stride, stride, shift, sum, square, some, channels});
    });
  }
}

void Moments::end(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
  sums_.flush(group, channel, channels);
  for (std::int64_t c = kBlock; c < channels; c += kBlock) {
    count(group, channel + c) = count(group, channel);
  }
}

void Moments::finish(std::int64_t pixels, float* mean, float* var) const {
  // sum (x - o) = sum (x - s) + n (s - o), around the first group's shift o, which is near all
  // means; and with m the mean: sum (x - m)^2 = sum (x - s)^2 + 2 (s - m) sum (x - s) + n (s - m)^2
  const auto all = static_cast<double>(pixels);
  std::vector<double> off(static_cast<std::size_t>(channels_)), square(off.size());
  const auto for_all = [&](auto&& body) {
    for (std::int64_t g = 0; g < sums_.groups(); ++g) {
      for (std::int64_t c = 0; c < channels_; ++c) {
        const auto shift = static_cast<double>(shifts_[width_ * g + c]);
        body(g, c, static_cast<double>(count(g, c / kBlock * kBlock)),
             shift - static_cast<double>(shifts_[c]));
      }
    }
  };
  for_all([&](std::int64_t g, std::int64_t c, double n, double away) {
    off[c] += sums_.first(g, c) + n * away;
  });
  for (double& value : off) value /= all;
  for_all([&](std::int64_t g, std::int64_t c, double n, double away) {
    const double d = away - off[c];
    square[c] += sums_.second(g, c) + 2 * d * sums_.first(g, c) + n * d * d;
  });
  for (std::int64_t c = 0; c < channels_; ++c) {
    mean[c] = static_cast<float>(static_cast<double>(shifts_[c]) + off[c]);
    const double variance = square[c] / all;
    var[c] = static_cast<float>(variance < 0 ? 0 : variance);  // NaN stays
  }
}

void InputSums::add(const Run& run, std::int64_t group, std::int64_t channel, std::int64_t channels,
                    std::int64_t first, std::int64_t count, const float* dx,
                    std::int64_t dx_stride) const {
  if (before_.sums == nullptr) return;
  const Normalizer n(before_.normal);
  for (std::int64_t at = 0; at < count; at += GroupSums::kPixelsInFloat) {
    const std::int64_t some = std::min(GroupSums::kPixelsInFloat, count - at);
    const float* x = before_.x + (first + at) * channels_ + channel;
    sums_.add(group, channel, channels, some, [&](float* sum, float* dot) {
      run.kernels.normalize_sums_f32({dx + at * dx_stride, dx_stride, x, channels_,
                                      n.mean + channel, n.scale + channel, n.shift + channel, sum,
                                      dot, some, channels, n.activation});
    });
  }
}

}  // namespace weebill
