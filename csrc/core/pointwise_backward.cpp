// Gradients of a pointwise convolution: by the input, a product with the transposed weights; by the
// weight, a sum over pixels of outer products.
//
// The pixels are cut into groups whose sums are added in order; their number follows from the
// shapes alone, so the result is the same, bit for bit, for any number of threads. With a group for
// every thread, both gradients of a block of pixels are made while its dy is in the cache.
#include <algorithm>
#include <cstring>

#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

// Pixels per call: what is read twice stays in the second cache.
constexpr std::int64_t kPixels = 64;
constexpr std::int64_t kMostGroups = 16;
constexpr std::int64_t kPixelsPerGroup = 2048;

struct Product {
  const float *x, *dy;
  std::int64_t m, k, n;  // pixels, channels of x, channels of dy
};

// (n, k) as the weights of a product with n inputs and k outputs: the layout of PointwiseArgs::w.
void pack_transposed(const float* w, std::int64_t n, std::int64_t k, float* out) {
  for (std::int64_t first = 0; first < k; first += kBlock) {
    const std::int64_t width = k - first <= kHalfBlock ? kHalfBlock : kBlock;
    const std::int64_t there = std::min(width, k - first);
    for (std::int64_t o = 0; o < n; ++o, out += width) {
      std::copy_n(w + o * k + first, there, out);
      std::fill(out + there, out + width, 0.0f);
    }
  }
}

PointwiseArgs input_product(const Product& p, const float* packed, const float* zeros, float* dx) {
  PointwiseArgs a{};
  a.x = p.dy;
  a.x_stride = p.n;
  a.w = packed;
  a.w_block_stride = p.n * kBlock;
  a.bias = zeros;
  a.y = dx;
  a.y_stride = p.k;
  a.y_width = p.m;
  a.m = p.m;
  a.k = p.n;
  a.n = p.k;
  return a;
}

// Pixels [first, last) into output channels [from, to) of dw.
void add_outer_products(const Run& run, const Product& p, std::int64_t first, std::int64_t last,
                        std::int64_t from, std::int64_t to, float* dw) {
  PointwiseWeightGradArgs a{};
  a.x = p.x + first * p.k;
  a.x_stride = p.k;
  a.dy = p.dy + first * p.n + from;
  a.dy_stride = p.n;
  a.dw = dw + from * p.k;
  a.dw_stride = p.k;
  a.m = last - first;
  a.k = p.k;
  a.n = to - from;
  a.m_block = kPixels;
  run.kernels.pointwise_backward_weight_f32(a);
}

}  // namespace

void pointwise_conv2d_backward(const TensorView& dy, const TensorView& x, const Weight& weight,
                               const ConvolutionGradients& wanted) {
  static const std::string op = "pointwise_conv2d_backward";
  const auto& shape = weight.shape;
  check(shape.size() == 4 && shape[1] == x.c && shape[2] == 1 && shape[3] == 1, op,
        ": weight must be (c_out, ", x.c, ", 1, 1) for x with ", x.c, " channels");
  check(dy.n == x.n && dy.c == shape[0] && dy.h == x.h && dy.w == x.w, op,
        ": grad_output must be (", x.n, ", ", shape[0], ", ", x.h, ", ", x.w, "), got (", dy.n,
        ", ", dy.c, ", ", dy.h, ", ", dy.w, ")");
  Product p{nullptr, nullptr, x.n * x.h * x.w, x.c, shape[0]};
  if (wanted.weight != nullptr) std::fill_n(wanted.weight, p.n * p.k, 0.0f);
  if (wanted.bias != nullptr) std::fill_n(wanted.bias, p.n, 0.0f);
  if (p.m == 0) return;
  const Run whole = {kernels(), machine_caches(), max_threads()};
  const Run run = {whole.kernels, whole.caches, plan_threads(p.m * p.k * p.n, whole.threads)};
  Workspace::Scope scope(Workspace::of_this_thread());
  p.dy = nhwc_data(run, dy, scope);
  if (wanted.weight != nullptr) p.x = nhwc_data(run, x, scope);

  float* packed = nullptr;
  float* zeros = nullptr;
  if (wanted.input != nullptr) {
    packed = scope.take(product_elements(p.n, p.k));
    pack_transposed(weight.data, p.n, p.k, packed);
    zeros = scope.take(round_up(p.k, kBlock));
    std::fill_n(zeros, round_up(p.k, kBlock), 0.0f);
  }
  const std::int64_t groups = std::clamp<std::int64_t>(p.m / kPixelsPerGroup, 1, kMostGroups);
  const bool together = groups >= run.threads;
  if (wanted.input != nullptr && !together) {
    run_product(run, input_product(p, packed, zeros, wanted.input));
  }
  // Group 0 adds to the result itself, the others to sums of their own.
  float* sums = nullptr;
  float* bias_sums = nullptr;
  if (wanted.weight != nullptr) sums = scope.take((groups - 1) * p.n * p.k);
  if (wanted.bias != nullptr) bias_sums = scope.take((groups - 1) * p.n);
  // Too few groups: threads share the output channels of each. That changes no sum.
  const std::int64_t parts = together ? 1 : std::min((run.threads + groups - 1) / groups, p.n);
  run.for_each(groups * parts, [&](std::int64_t task) {
    const std::int64_t group = task / parts, part = task % parts;
    const std::int64_t from = part * p.n / parts, to = (part + 1) * p.n / parts;
    const std::int64_t first = group * p.m / groups, last = (group + 1) * p.m / groups;
    if (wanted.bias != nullptr) {
      float* db = (group == 0 ? wanted.bias : bias_sums + (group - 1) * p.n) + from;
      if (group > 0) std::fill_n(db, to - from, 0.0f);
      run.kernels.sum_f32({p.dy + first * p.n + from, p.n, db, last - first, to - from});
    }
    float* dw = group == 0 ? wanted.weight : sums + (group - 1) * p.n * p.k;
    if (wanted.weight != nullptr && group > 0)
      std::fill_n(dw + from * p.k, (to - from) * p.k, 0.0f);
    if (!together || wanted.input == nullptr) {
      if (wanted.weight != nullptr) add_outer_products(run, p, first, last, from, to, dw);
      return;
    }
    for (std::int64_t at = first; at < last; at += kPixels) {
      const std::int64_t end = std::min(at + kPixels, last);
      PointwiseArgs a = input_product(p, packed, zeros, wanted.input + at * p.k);
      a.x += at * p.n;
      a.m = a.y_width = a.m_block = end - at;
      run.kernels.pointwise_f32(a);
      if (wanted.weight != nullptr) add_outer_products(run, p, at, end, from, to, dw);
    }
  });
  for (std::int64_t g = 0; g + 1 < groups; ++g) {
    for (std::int64_t i = 0; sums != nullptr && i < p.n * p.k; ++i) {
      wanted.weight[i] += sums[g * p.n * p.k + i];
    }
    for (std::int64_t o = 0; bias_sums != nullptr && o < p.n; ++o) {
      wanted.bias[o] += bias_sums[g * p.n + o];
    }
  }
}

}  // namespace weebill
