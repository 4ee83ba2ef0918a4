// The argument structures of all kernels: raw pointers and plain numbers.
//
// Common rules. Everything is float32, or T in the structures of networks' blocks, which have
// kernels for float32 and for float16. Strides are in elements. Channels are contiguous (NHWC). A
// kernel reads and writes only what its formula names: no byte beyond. Pointers need only the
// alignment of an element. y never overlaps x. Packed weights come in *blocks* of 16 output
// channels; the last block is 8 wide when 8 or fewer channels are left in it, and is padded with
// zeros. The block width is the same for every instruction set. Biases are padded to whole blocks.
#pragma once

#include <cstdint>

#include "simd/half.h"

namespace weebill {

/// Channels per block of packed weights.
constexpr std::int64_t kBlock = 16;
/// Width of a last block that holds at most this many channels.
constexpr std::int64_t kHalfBlock = 8;

/// The values are those of weebill::Activation (core/weebill.h).
enum ActivationCode : std::int32_t {
  kActNone = 0,
  kActRelu,
  kActRelu6,
  kActHardswish,
  kActHardsigmoid,
  kActHardsigmoidPaddle,
  kActSilu,
  kActSigmoid,
};

/// Blocks of weights that a product scales at once: as many as a tile has at most.
constexpr std::int64_t kScaledBlocks = 4;

/// A network's weights lie behind one another as they are read. Those before `next` have been asked
/// for; a product may go on, up to `reach` elements from the weights that it is at. Only fetched:
/// any address will do.
template <typename T>
struct AheadOf {
  const T* next;
  std::int64_t reach;
};

/// Matrix product on pixels, direct (1 x 1 convolution) or through a table of offsets (dense
/// convolution on the pixels whose window lies inside the image):
///   y[p, o] = act(bias[o] + sum_i w[o, i] * s[i] * x[p, i]) + residual[p, o]
/// with x[p, i] at x + p * x_stride + (offsets ? offsets[i] : i) and s[i] = scale ? scale[i] : 1.
/// Output pixel p lies at y + p * y_stride + ((y_column + p) / y_width) * y_jump: y_jump elements
/// are skipped at the end of every row of y_width pixels, of which the first starts at y_column.
/// Behind every block of 16 channels, y_block_jump elements are skipped.
template <typename T>
struct PointwiseArgsOf {
  const T* x;
  std::int64_t x_stride;
  const std::int64_t* offsets;  ///< k entries, or nullptr
  /// Block b of the weights at w + b * w_block_stride: [k][16], or [k][8] for a half last block.
  const T* w;
  std::int64_t w_block_stride;
  const T* bias;  ///< n entries, padded to whole blocks
  T* y;
  std::int64_t y_stride;
  std::int64_t y_width;       ///< >= 1
  std::int64_t y_jump;        ///< >= 0
  std::int64_t y_column;      ///< 0 <= y_column < y_width
  std::int64_t y_block_jump;  ///< 0, or with n a multiple of 16 anything; not with a residual
  const T* residual;          ///< pixel p at residual + p * residual_stride, or nullptr
  std::int64_t residual_stride;
  const T* scale;  ///< k entries, or nullptr; not together with offsets
  /// Used only with scale: min(m, m_block) * k elements, or with scale_weights
  /// kScaledBlocks * w_block_stride.
  T* scratch;
  std::int64_t m;        ///< pixels, >= 0
  std::int64_t k;        ///< input channels (or taps), >= 0
  std::int64_t n;        ///< output channels, >= 1
  std::int64_t m_block;  ///< pixels over which one weight block is reused before the next, >= 1
  std::int32_t activation;
  bool scale_weights;  ///< multiply them, block by block, instead of the pixels
  AheadOf<T>* ahead;   ///< or nullptr; not shared with another thread
};
using PointwiseArgs = PointwiseArgsOf<float>;

/// The rows of x that the next output row is the first to need, one for each step of the stride.
/// Only fetched, and any address will do.
template <typename T>
struct NextRowsOf {
  const T* x;                   ///< the pixel of output column 0 and the middle tap
  std::int64_t row_stride = 0;  ///< from one of them to the next
};

/// One output row (or a part of it) of a depthwise convolution, every tap inside the row:
///   y[j, c] = act(bias[c] + sum_{u < rows} sum_{v < kw} w[c, first_row + u, v]
///                                                  * x_rows[u][(j * stride + v) * x_stride + c])
///   sum[c] += sum_j y[j, c]     (if sum is given)
/// Kernel rows outside the image are left out by first_row and rows. The kernel width and stride
/// are fixed by the table entry (k3s1, k3s2, k5s1, k5s2: square kernels).
template <typename T>
struct DepthwiseArgsOf {
  const T* const* x_rows;  ///< `rows` pointers to the pixel of output column 0, tap 0
  std::int64_t x_stride;   ///< from one input column to the next
  /// [ceil(channels / 16)][kernel * kernel][16]
  const T* w;
  const T* bias;  ///< padded to 16
  T* y;
  std::int64_t y_stride;
  float* sum;  ///< channels entries, added to, or nullptr
  std::int64_t first_row;
  std::int64_t rows;     ///< 0 <= first_row, rows; first_row + rows <= kernel
  std::int64_t columns;  ///< output columns, >= 0
  /// So many of the first and of the last input columns are zeros. A kernel may leave their
  /// products out. Those of a table that `leaves_zeros_out` do not read them, where there are
  /// kw / 2 or none on the left, (kw - stride) / 2 or none on the right, a multiple of 14 columns
  /// or 7 of them, and a multiple of 8 channels.
  std::int64_t zeros_left, zeros_right;
  std::int64_t channels;
  std::int32_t activation;
  /// Nobody reads y while a cache would hold it. A kernel that writes whole lines may go past
  /// those.
  bool stream;
  const NextRowsOf<T>* ahead;  ///< or nullptr
};
using DepthwiseArgs = DepthwiseArgsOf<float>;

/// As DepthwiseArgs for any window, with a range of kernel columns as well; also the edges of the
/// tuned sizes:
///   y[j, c] = act(bias[c] + sum_{u < rows} sum_{v < taps} w[c, first_row + u, first_tap + v]
///                                 * x_rows[u][(j * stride + v * dilation) * x_stride + c])
template <typename T>
struct DepthwiseAnyArgsOf {
  DepthwiseArgsOf<T> common;  ///< x_rows point to the pixel of output column 0, tap first_tap
  std::int64_t kernel_h, kernel_w;
  std::int64_t stride, dilation;  ///< along the row
  std::int64_t first_tap, taps;
};
using DepthwiseAnyArgs = DepthwiseAnyArgsOf<float>;

/// Pixels that are needed after this row. Only fetched, and any address will do.
struct RowsAhead {
  const float *x,
      *dy;  ///< as many columns as the row has, and of dy one for each stride; or nullptr
  std::int64_t stride;
};

/// One row (or a part of it) of the gradient by the input of a depthwise convolution, and what that
/// row of x gives to the gradient by the weight. With
///   g(r, i, v, c) = dy_rows[r][(first + i - v) / stride * dy_stride + c]
/// over the v in [0, kernel) for which stride divides first + i - v:
///   dx[i, c] = sum_{r < rows} sum_v w[c, first_row + r * row_step, v] * g(r, i, v, c)
///   dw[c, first_row + r * row_step, v] += sum_i x[i, c] * g(r, i, v, c)
/// and the quotient lies in [0, dy_columns): nothing else is read. The window's width and stride
/// are fixed by the table entry.
struct DepthwiseGradArgs {
  const float* const* dy_rows;  ///< `rows` pointers to the pixel of output column 0
  std::int64_t dy_stride, dy_columns;
  const float* w;  ///< as in DepthwiseArgs
  float* dw;       ///< laid out as w; nothing is added to channels beyond the last
  const float* x;
  std::int64_t x_stride;
  float* dx;
  std::int64_t dx_stride;
  std::int64_t first_row, row_step, rows;
  std::int64_t first;    ///< of the padded input row, the column that dx and x start at; >= 0
  std::int64_t columns;  ///< of dx, >= 0
  std::int64_t first_channel, channels;  ///< from a multiple of 16 to, not with, channel `channels`
  bool stream;  ///< no cache would hold dx until it is read; a kernel may ignore it
  RowsAhead ahead;
};

/// As DepthwiseGradArgs for any window, over the v for which stride divides
/// first + i - v * dilation.
struct DepthwiseGradAnyArgs {
  DepthwiseGradArgs common;
  std::int64_t kernel_h, kernel_w;
  std::int64_t stride, dilation;  ///< along the row
};

/// Gradient by the weight of a pointwise convolution:
///   dw[o * dw_stride + i] += sum_{p < m} dy[p * dy_stride + o] * x[p * x_stride + i]
/// in parts of m_block pixels, each summed for itself first.
struct PointwiseWeightGradArgs {
  const float* x;
  std::int64_t x_stride;
  const float* dy;
  std::int64_t dy_stride;
  float* dw;
  std::int64_t dw_stride;
  std::int64_t m;        ///< pixels, >= 0
  std::int64_t k;        ///< input channels, >= 0
  std::int64_t n;        ///< output channels, >= 1
  std::int64_t m_block;  ///< >= 1
};

/// sum[c] += sum_{p < pixels} x[p * x_stride + c].
template <typename T>
struct SumArgsOf {
  const T* x;
  std::int64_t x_stride;
  float* sum;
  std::int64_t pixels;
  std::int64_t channels;
};
using SumArgs = SumArgsOf<float>;

/// y[p, c] = x[p, c] * scale[c]. y may be x itself.
template <typename T>
struct ScaleArgsOf {
  const T* x;
  std::int64_t x_stride;
  const T* scale;
  T* y;
  std::int64_t y_stride;
  std::int64_t pixels;
  std::int64_t channels;
};
using ScaleArgs = ScaleArgsOf<float>;

/// y[p, c] = x[p, c].
struct CopyArgs {
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_stride;
  std::int64_t pixels;
  std::int64_t channels;
  bool stream;  ///< past the caches, if the addresses allow it
};

/// y[c / 16 * y_block_stride + p * 16 + c % 16] = x[p, c].
struct BlockCopyArgs {
  const float* x;
  std::int64_t x_stride;
  float* y;
  std::int64_t y_block_stride;
  std::int64_t pixels;
  std::int64_t channels;
};

/// y[p * channels + c] = x[c * x_channel_stride + p]: NCHW planes to NHWC pixels.
template <typename T>
struct InterleaveArgsOf {
  const T* x;
  std::int64_t x_channel_stride;
  T* y;
  std::int64_t pixels;
  std::int64_t channels;
};
using InterleaveArgs = InterleaveArgsOf<float>;

/// x[p, c] = act(x[p, c]).
template <typename T>
struct ActivateArgsOf {
  T* x;
  std::int64_t x_stride;
  std::int64_t pixels;
  std::int64_t channels;
  std::int32_t activation;
};
using ActivateArgs = ActivateArgsOf<float>;

/// sum[c] += sum_p (x[p, c] - shift[c]),  square[c] += sum_p (x[p, c] - shift[c])^2.
struct MomentsArgs {
  const float* x;
  std::int64_t x_stride;
  const float* shift;
  float* sum;
  float* square;
  std::int64_t pixels;
  std::int64_t channels;
};

/// y[p, c] = act(u),  u = (x[p, c] - mean[c]) * scale[c] + shift[c].
struct NormalizeArgs {
  const float* x;
  std::int64_t x_stride;
  const float *mean, *scale, *shift;
  float* y;
  std::int64_t y_stride;
  std::int64_t pixels;
  std::int64_t channels;
  std::int32_t activation;
  bool stream;                           ///< past the caches, if the addresses allow it
  std::int64_t y_block_stride = kBlock;  ///< from one block of channels of a pixel to the next
};

/// With u as above and g = act'(u) * dy[p, c]:
///   sum[c] += sum_p g,  dot[c] += sum_p g * (x[p, c] - mean[c])
struct NormalizeSumsArgs {
  const float* dy;
  std::int64_t dy_stride;
  const float* x;
  std::int64_t x_stride;
  const float *mean, *scale, *shift;
  float *sum, *dot;
  std::int64_t pixels;
  std::int64_t channels;
  std::int32_t activation;
};

/// dx[p, c] = scale[c] * g - offset[c] - slope[c] * (x[p, c] - mean[c]).
struct NormalizeGradArgs {
  const float* dy;
  std::int64_t dy_stride;
  const float* x;
  std::int64_t x_stride;
  const float *mean, *scale, *shift, *offset, *slope;
  float* dx;
  std::int64_t dx_stride;
  std::int64_t pixels;
  std::int64_t channels;
  std::int32_t activation;
  bool stream;  ///< past the caches, if the addresses allow it
  std::int64_t dx_block_stride = kBlock;
};

/// One output row (or a part of it) of a max pooling, every tap inside the row:
///   y[j, c] = max_{u < rows} max_{v < taps} x_rows[u][(j * stride + v * dilation) * x_stride + c]
/// NaN if one of them is.
template <typename T>
struct MaxPoolArgsOf {
  const T* const* x_rows;  ///< `rows` pointers to the pixel of output column 0, tap 0
  std::int64_t x_stride;   ///< from one input column to the next
  T* y;
  std::int64_t y_stride;
  std::int64_t rows, taps;  ///< >= 1
  std::int64_t stride, dilation;
  std::int64_t columns;  ///< output columns, >= 0
  std::int64_t channels;
};
using MaxPoolArgs = MaxPoolArgsOf<float>;

/// y[i] = x[i] rounded to the nearest half.
struct NarrowArgs {
  const float* x;
  Half* y;
  std::int64_t count;
};

/// y[i] = x[i].
struct WidenArgs {
  const Half* x;
  float* y;
  std::int64_t count;
};

/// The channels of `groups` tensors in turn: the channel shuffle of their concatenation.
///   y[p, i * groups + j] = x[j][p * x_stride[j] + i]   for i * groups + j < channels
template <typename T>
struct ShuffleArgsOf {
  const T* const* x;             ///< `groups` pointers to pixel 0
  const std::int64_t* x_stride;  ///< `groups` entries
  T* y;
  std::int64_t y_stride;
  std::int64_t pixels;
  std::int64_t groups;    ///< >= 1
  std::int64_t channels;  ///< of y, any number >= 0
};
using ShuffleArgs = ShuffleArgsOf<float>;

/// Some of an image's planes in the order of a channel shuffle, `first` and those after it. Sizes
/// and strides are bytes; no pointer needs to be aligned.
///   y[(p - first) * bytes + k] = x[(p % groups * per_group + p / groups) * x_stride + k]
struct ShufflePlanesArgs {
  const unsigned char* x;  ///< plane 0
  std::int64_t x_stride;   ///< between planes
  unsigned char* y;        ///< plane `first`
  std::int64_t bytes;      ///< of a plane, >= 0
  std::int64_t first, planes;
  std::int64_t groups;     ///< >= 1
  std::int64_t per_group;  ///< planes of a group, >= 1
};

}  // namespace weebill
