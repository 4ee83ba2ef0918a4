// What the layers of a network in training share. Internal to the core.
#pragma once

#include <cstdint>

#include "core/drivers.h"

namespace weebill {

/// What turns stored values into those that a layer takes: act((x - mean) * scale + shift).
struct Normalizer {
  const float *mean, *scale, *shift;  ///< per channel
  std::int32_t activation;

  explicit Normalizer(const Normalization& n)
      : mean(n.mean),
        scale(n.scale),
        shift(n.shift),
        activation(static_cast<std::int32_t>(n.activation)) {}
};

/// Pixels that are made where they are needed, and only there.
class PixelSource {
 public:
  struct View {
    const float* data;
    std::int64_t stride;
  };

  /// As they lie in memory.
  PixelSource(const float* x, std::int64_t stride) : x_(x), stride_(stride) {}

  /// Through `normal`; as they lie if that has no mean.
  PixelSource(const float* x, std::int64_t stride, const Normalization& normal)
      : x_(x), stride_(stride), normal_(normal) {}

  /// The gradient of what goes into a normalisation with batch statistics: NormalizeGradArgs, of
  /// the gradient `dy` of what comes out, dense as `x` is.
  PixelSource(const float* dy, const float* x, std::int64_t channels, const Normalization& normal,
              const float* offset, const float* slope)
      : x_(x), stride_(channels), normal_(normal), dy_(dy), offset_(offset), slope_(slope) {}

  bool is_made() const { return normal_.mean != nullptr; }

  /// Pixels [first, first + count), channels [channel, channel + channels): in memory, or made in
  /// `scratch` of count * channels elements.
  View fetch(const Run& run, std::int64_t first, std::int64_t count, std::int64_t channel,
             std::int64_t channels, float* scratch) const;

  /// The same to `out`: pixels of one block of channels next to one another, blocks of channels
  /// `block_stride` apart.
  void fetch_blocks(const Run& run, std::int64_t first, std::int64_t count, std::int64_t channel,
                    std::int64_t channels, float* out, std::int64_t block_stride) const;

  /// Dense pixels of all channels, made in parallel if they have to be.
  View all(const Run& run, std::int64_t pixels, std::int64_t channels,
           Workspace::Scope& scope) const;

  /// Those that are made, to `out`: pixels `stride` apart, blocks of a pixel's channels
  /// `block_stride`.
  void make(const Run& run, std::int64_t first, std::int64_t count, std::int64_t channel,
            std::int64_t channels, float* out, std::int64_t stride,
            std::int64_t block_stride) const;

 private:
  const float* x_;
  std::int64_t stride_;
  Normalization normal_;
  const float* dy_ = nullptr;
  const float *offset_ = nullptr, *slope_ = nullptr;
};

/// Two sums per channel, made group by group: in float32 over a few hundred pixels at a time, and
/// in float64 from there on. Groups run in parallel; their totals are added in order.
class GroupSums {
 public:
  GroupSums(std::int64_t groups, std::int64_t channels, Workspace::Scope& scope);

  std::int64_t groups() const { return groups_; }

  /// Begins channels [channel, channel + channels) of a group.
  void begin(std::int64_t group, std::int64_t channel, std::int64_t channels) const;

  /// body(first sum, second sum) adds those of `pixels` pixels, for the channels from `channel` on.
  template <typename Body>
  void add(std::int64_t group, std::int64_t channel, std::int64_t channels, std::int64_t pixels,
           Body&& body) const {
    float* part = parts_ + 2 * width_ * group + channel;
    if (pending(group, channel) + pixels > kPixelsInFloat) flush(group, channel, channels);
    body(part, part + width_);
    pending(group, channel) += pixels;
  }

  /// After the last add() of a group's channels.
  void flush(std::int64_t group, std::int64_t channel, std::int64_t channels) const;

  double first(std::int64_t group, std::int64_t c) const { return totals_[2 * width_ * group + c]; }
  double second(std::int64_t group, std::int64_t c) const {
    return totals_[2 * width_ * group + width_ + c];
  }
  /// Over all groups, in their order.
  void totals(double* first, double* second) const;

  /// Pixels that are summed in float32.
  static constexpr std::int64_t kPixelsInFloat = 256;

 private:
  std::int64_t& pending(std::int64_t group, std::int64_t channel) const {
    return pending_[group * (width_ / kBlock) + channel / kBlock];
  }

  std::int64_t groups_, channels_, width_;
  double* totals_;
  float* parts_;
  std::int64_t* pending_;  // pixels in float32, of chunks of channels that begin at a block
};

/// Mean and variance of each channel, from groups of pixels that each have a value near their own
/// mean subtracted first: sums of squares around it lose nothing to cancellation.
class Moments {
 public:
  Moments(std::int64_t groups, std::int64_t channels, Workspace::Scope& scope);

  /// Dense pixels of the channels from `channel` on; the group's first ones tell the shift.
  void begin(std::int64_t group, std::int64_t channel, std::int64_t channels) const;
  void add(const Run& run, std::int64_t group, std::int64_t channel, std::int64_t channels,
           const float* x, std::int64_t stride, std::int64_t pixels) const;
  void end(std::int64_t group, std::int64_t channel, std::int64_t channels) const;

  /// `pixels` of all groups.
  void finish(std::int64_t pixels, float* mean, float* var) const;

 private:
  std::int64_t& count(std::int64_t group, std::int64_t channel) const {
    return counts_[group * (width_ / kBlock) + channel / kBlock];
  }

  GroupSums sums_;
  std::int64_t channels_, width_;
  float* shifts_;
  std::int64_t* counts_;
};

/// What the gradient by a layer's input goes through next: the normalisation of that input, whose
/// sums (NormalizeSumsArgs) are made while the gradient is in the cache. Nothing without `sums`.
struct InputNormalization {
  const float* x = nullptr;  ///< before it; dense
  Normalization normal;
  double* sums = nullptr;  ///< 2 * channels: sums, then dots
};

/// Makes them.
class InputSums {
 public:
  InputSums(const InputNormalization& before, std::int64_t groups, std::int64_t channels,
            Workspace::Scope& scope)
      : before_(before),
        channels_(channels),
        sums_(before.sums != nullptr ? groups : 0, channels, scope) {}

  void begin(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
    if (before_.sums != nullptr) sums_.begin(group, channel, channels);
  }
  /// Pixels [first, first + count) of x, their gradient at dx.
  void add(const Run& run, std::int64_t group, std::int64_t channel, std::int64_t channels,
           std::int64_t first, std::int64_t count, const float* dx, std::int64_t dx_stride) const;
  void end(std::int64_t group, std::int64_t channel, std::int64_t channels) const {
    if (before_.sums != nullptr) sums_.flush(group, channel, channels);
  }
  void finish() const {
    if (before_.sums != nullptr) sums_.totals(before_.sums, before_.sums + channels_);
  }

 private:
  const InputNormalization before_;
  const std::int64_t channels_;
  const GroupSums sums_;
};

/// The pixels and channels of a product: x is (m, k), y is (m, n).
struct ProductShape {
  std::int64_t m, k, n;
};

/// Gradients of convolutions whose tensors may be made as they are read. `window` has its padding
/// made explicit. `wanted.bias` only for a dy that lies in memory.
void run_depthwise_backward(const Run& run, const Window& window, const Shape& x, const Shape& y,
                            const PixelSource& from, const PixelSource& dy, const float* weight,
                            const ConvolutionGradients& wanted, const InputNormalization& before);
void run_pointwise_backward(const Run& run, const ProductShape& shape, const PixelSource& x,
                            const PixelSource& dy, const float* weight,
                            const ConvolutionGradients& wanted, const InputNormalization& before);

}  // namespace weebill
