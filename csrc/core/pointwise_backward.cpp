// Gradients of a pointwise convolution: by the input, a product with the transposed weights; by the
// weight, a sum over pixels of outer products.
//
// The pixels are cut into groups whose sums are added in order; their number follows from the
// shapes alone, so the result is the same, bit for bit, for any number of threads. With a group for
// every thread, both gradients of a block of pixels are made while its dy is in the cache; what a
// source has to make is then made there too.
#include <algorithm>

#include "core/status.h"
#include "core/training.h"

namespace weebill {
namespace {

// Pixels per call: what is read twice stays in the second cache.
constexpr std::int64_t kPixels = 64;
constexpr std::int64_t kMostGroups = 16;
constexpr std::int64_t kPixelsPerGroup = 512;

using View = PixelSource::View;

// (n, k) as the weights of a product with n inputs and k outputs: the layout of PointwiseArgs::w.
void pack_transposed(const Run& run, const float* w, std::int64_t n, std::int64_t k,
                     float* packed) {
  run.for_ranges(k, kBlock, n, [&](std::int64_t from, std::int64_t to) {
    float* out = packed + from * n;
    for (std::int64_t first = from; first < to; first += kBlock) {
      const std::int64_t width = k - first <= kHalfBlock ? kHalfBlock : kBlock;
      const std::int64_t there = std::min(width, k - first);
      for (std::int64_t o = 0; o < n; ++o, out += width) {
        std::copy_n(w + o * k + first, there, out);
        std::fill(out + there, out + width, 0.0f);
      }
    }
  });
}

// Adds the sums of all other groups to the first one's.
void add_groups(const Run& run, const float* sums, std::int64_t groups, std::int64_t size,
                float* total) {
  if (sums == nullptr) return;
  run.for_ranges(size, kBlock, groups, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t g = 0; g < groups; ++g) {
      for (std::int64_t i = first; i < last; ++i) total[i] += sums[g * size + i];
    }
  });
}

// What stays the same from block to block of pixels.
class PointwiseBackward {
 public:
  PointwiseBackward(const Run& run, const ProductShape& shape, const float* weight,
                    const ConvolutionGradients& wanted, Workspace::Scope& scope)
      : run_(run), s_(shape), wanted_(wanted) {
    if (wanted.input == nullptr) return;
    float* packed = scope.take(product_elements(s_.n, s_.k));
    pack_transposed(run, weight, s_.n, s_.k, packed);
    packed_ = packed;
    zeros_ = scope.zeros(round_up(s_.k, kBlock));
  }

  std::int64_t input_stride() const {
    return wanted_.input_stride != 0 ? wanted_.input_stride : s_.k;
  }

  // The gradient by `count` pixels from pixel `first` on.
  PointwiseArgs input_product(const View& dy, std::int64_t first, std::int64_t count) const {
    return product_args(dy.data, dy.stride, packed_, zeros_, wanted_.input + first * input_stride(),
                        input_stride(), count, s_.n, s_.k);
  }

  // `count` pixels into output channels [from, to) of dw.
  void add_outer_products(const View& x, const View& dy, std::int64_t count, std::int64_t from,
                          std::int64_t to, float* dw) const {
    PointwiseWeightGradArgs a{};
    a.x = x.data;
    a.x_stride = x.stride;
    a.dy = dy.data + from;
    a.dy_stride = dy.stride;
    a.dw = dw + from * s_.k;
    a.dw_stride = s_.k;
    a.m = count;
    a.k = s_.k;
    a.n = to - from;
    a.m_block = kPixels;
    run_.kernels.pointwise_backward_weight_f32(a);
  }

  // Both, of pixels [first, last), block by block.
  void together(const PixelSource& x_source, const PixelSource& dy_source, std::int64_t group,
                std::int64_t first, std::int64_t last, float* dw, const InputSums& sums) const {
    Workspace::Scope scope(Workspace::of_this_thread());
    float* made_x = x_source.is_made() ? scope.take(kPixels * s_.k) : nullptr;
    float* made_dy = dy_source.is_made() ? scope.take(kPixels * s_.n) : nullptr;
    for (std::int64_t at = first; at < last; at += kPixels) {
      const std::int64_t count = std::min(kPixels, last - at);
      const View dy = dy_source.fetch(run_, at, count, 0, s_.n, made_dy);
      if (wanted_.input != nullptr) {
        const PointwiseArgs a = input_product(dy, at, count);
        run_.kernels.pointwise_f32(a);
        sums.add(run_, group, 0, s_.k, at, count, a.y, a.y_stride);
      }
      if (dw == nullptr) continue;
      const View x = x_source.fetch(run_, at, count, 0, s_.k, made_x);
      add_outer_products(x, dy, count, 0, s_.n, dw);
    }
  }

 private:
  const Run& run_;
  const ProductShape s_;
  const ConvolutionGradients wanted_;
  const float* packed_ = nullptr;
  const float* zeros_ = nullptr;
};

View from_pixel(const View& pixels, std::int64_t first) {
  return {pixels.data + first * pixels.stride, pixels.stride};
}

}  // namespace

void run_pointwise_backward(const Run& run, const ProductShape& s, const PixelSource& x,
                            const PixelSource& dy, const float* weight,
                            const ConvolutionGradients& wanted, const InputNormalization& before) {
  Workspace::Scope scope(Workspace::of_this_thread());
  const PointwiseBackward backward(run, s, weight, wanted, scope);
  const std::int64_t groups = std::clamp<std::int64_t>(s.m / kPixelsPerGroup, 1, kMostGroups);
  const InputSums input_sums(before, groups, s.k, scope);
  const bool together = groups >= run.threads;
  // Group 0 adds to the result itself, the others to sums of their own.
  float* sums = nullptr;
  float* bias_sums = nullptr;
  if (wanted.weight != nullptr) sums = scope.take((groups - 1) * s.n * s.k);
  if (wanted.bias != nullptr) bias_sums = scope.take((groups - 1) * s.n);
  View all_x{}, all_dy{};
  if (!together || wanted.bias != nullptr) all_dy = dy.all(run, s.m, s.n, scope);
  if (!together && wanted.weight != nullptr) all_x = x.all(run, s.m, s.k, scope);
  if (!together && wanted.input != nullptr)
    run_product(run, backward.input_product(all_dy, 0, s.m));
  // Too few groups: threads share the output channels of each. That changes no sum.
  const std::int64_t parts = together ? 1 : std::min((run.threads + groups - 1) / groups, s.n);
  run.for_each(groups * parts, [&](std::int64_t task) {
    const std::int64_t group = task / parts, part = task % parts;
    const std::int64_t from = part * s.n / parts, to = (part + 1) * s.n / parts;
    const std::int64_t first = group * s.m / groups, last = (group + 1) * s.m / groups;
    if (wanted.bias != nullptr) {
      float* db = (group == 0 ? wanted.bias : bias_sums + (group - 1) * s.n) + from;
      std::fill_n(db, to - from, 0.0f);
      const View mine = from_pixel(all_dy, first);
      run.kernels.sum_f32({mine.data + from, mine.stride, db, last - first, to - from});
    }
    float* dw = nullptr;
    if (wanted.weight != nullptr) {
      dw = group == 0 ? wanted.weight : sums + (group - 1) * s.n * s.k;
      std::fill_n(dw + from * s.k, (to - from) * s.k, 0.0f);
    }
    if (part == 0) input_sums.begin(group, 0, s.k);
    if (together) {
      backward.together(x, dy, group, first, last, dw, input_sums);
    } else {
      if (dw != nullptr) {
        backward.add_outer_products(from_pixel(all_x, first), from_pixel(all_dy, first),
                                    last - first, from, to, dw);
      }
      if (part == 0 && wanted.input != nullptr) {
        const std::int64_t stride = backward.input_stride();
        input_sums.add(run, group, 0, s.k, first, last - first, wanted.input + first * stride,
                       stride);
      }
    }
    if (part == 0) input_sums.end(group, 0, s.k);
  });
  input_sums.finish();
  add_groups(run, sums, groups - 1, s.n * s.k, wanted.weight);
  add_groups(run, bias_sums, groups - 1, s.n, wanted.bias);
}

void pointwise_conv2d_backward(const TensorView& dy, const TensorView& x, const Weight& weight,
                               const ConvolutionGradients& wanted) {
  static const std::string op = "pointwise_conv2d_backward";
  const auto& shape = weight.shape;
  check(shape.size() == 4 && shape[1] == x.c && shape[2] == 1 && shape[3] == 1, op,
        ": weight must be (c_out, ", x.c, ", 1, 1) for x with ", x.c, " channels");
  check(dy.n == x.n && dy.c == shape[0] && dy.h == x.h && dy.w == x.w, op,
        ": grad_output must be (", x.n, ", ", shape[0], ", ", x.h, ", ", x.w, "), got (", dy.n,
        ", ", dy.c, ", ", dy.h, ", ", dy.w, ")");
  const ProductShape product = {x.n * x.h * x.w, x.c, shape[0]};
  if (product.m == 0) {
    if (wanted.weight != nullptr) std::fill_n(wanted.weight, product.n * product.k, 0.0f);
    if (wanted.bias != nullptr) std::fill_n(wanted.bias, product.n, 0.0f);
    return;
  }
  const Run whole = {kernels(), machine_caches(), max_threads()};
  const Run run = {whole.kernels, whole.caches,
                   plan_threads(product.m * product.k * product.n, whole.threads)};
  Workspace::Scope scope(Workspace::of_this_thread());
  const float* from = wanted.weight != nullptr ? nhwc_data(run, x, scope) : nullptr;
  run_pointwise_backward(run, product, PixelSource(from, x.c),
                         PixelSource(nhwc_data(run, dy, scope), dy.c), weight.data, wanted, {});
}

}  // namespace weebill
