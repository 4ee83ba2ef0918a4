// Depthwise-separable blocks with every combination of their optional parts.
#include "core/plan.h"
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

struct Block {
  std::int64_t c_in, c_mid, c_se, c_out;  ///< c_se 0: no SE; c_out 0: no projection
  bool expand, residual;
  AnyWindow window;
};

AnyWindow centred(std::int32_t kernel, std::int32_t stride, std::int32_t dilation = 1) {
  AnyWindow any{};
  any.kernel_h = any.kernel_w = kernel;
  Window& w = any.window;
  w.kernel_h = w.kernel_w = kernel;
  w.stride_h = w.stride_w = stride;
  w.dilation_h = w.dilation_w = dilation;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = dilation * (kernel - 1) / 2;
  return any;
}

SeparableSpec make_spec(const Block& b, Weights& weights) {
  SeparableSpec spec;
  if (b.expand) {
    spec.expand_weight = weights.make("expand_weight", {b.c_mid, b.c_in, 1, 1});
    spec.expand_bias = weights.maybe_bias("expand_bias", b.c_mid);
  }
  spec.depthwise_weight =
      weights.make("depthwise_weight", {b.c_mid, 1, b.window.kernel_h, b.window.kernel_w});
  spec.depthwise_bias = weights.maybe_bias("depthwise_bias", b.c_mid);
  if (b.c_se > 0) {
    spec.se_reduce_weight = weights.make("se_reduce_weight", {b.c_se, b.c_mid, 1, 1});
    spec.se_reduce_bias = weights.maybe_bias("se_reduce_bias", b.c_se);
    spec.se_expand_weight = weights.make("se_expand_weight", {b.c_mid, b.c_se, 1, 1});
    spec.se_expand_bias = weights.maybe_bias("se_expand_bias", b.c_mid);
  }
  if (b.c_out > 0) {
    spec.project_weight = weights.make("project_weight", {b.c_out, b.c_mid, 1, 1});
    spec.project_bias = weights.maybe_bias("project_bias", b.c_out);
  }
  spec.window = b.window.window;
  spec.expand_activation = any_activation(weights.integers());
  spec.depthwise_activation = any_activation(weights.integers());
  spec.se_activation = any_activation(false);
  spec.se_gate = static_cast<Activation>(
      rng().pick(Sizes{kActHardsigmoid, kActHardsigmoidPaddle, kActSigmoid, kActRelu}));
  spec.project_activation = any_activation(weights.integers());
  spec.residual = b.residual;
  return spec;
}

void check_block(const Block& b, const Shape& x, Layout layout, bool integers) {
  Weights weights(integers);
  const SeparableSpec spec = make_spec(b, weights);
  const std::string what = format(
      "separable c_in %lld c_mid %lld c_se %lld c_out %lld expand %d residual %d activations "
      "%d %d %d %d %d %s",
      static_cast<long long>(b.c_in), static_cast<long long>(b.c_mid),
      static_cast<long long>(b.c_se), static_cast<long long>(b.c_out), b.expand, b.residual,
      static_cast<int>(spec.expand_activation), static_cast<int>(spec.depthwise_activation),
      static_cast<int>(spec.se_activation), static_cast<int>(spec.se_gate),
      static_cast<int>(spec.project_activation),
      window_text(spec.window, b.window.kernel_h, b.window.kernel_w).c_str());
  set_case("%s: pack", what.c_str());
  const Bytes record = pack(spec);
  WEEBILL_EXPECT(weights.unchanged());
  const Input input = make_input(x, layout, integers);
  const reference::Geometry g =
      reference::geometry(spec.window, b.window.kernel_h, b.window.kernel_w, x);
  if (g.vertical.size <= 0 || g.horizontal.size <= 0) {
    expect_refused(what, record, input);
    return;
  }
  const bool exact = integers && b.c_se == 0;
  run_records(what, record, input, {reference::separable(spec, to_tensor(input)), exact});
}

Block any_block() {
  Block b{};
  b.expand = rng().integer(0, 2) > 0;
  b.c_in = any_channels();
  b.c_mid = !b.expand ? b.c_in : (rng().integer(0, 3) > 0 ? any_channels() : b.c_in);
  if (rng().integer(0, 2) == 0) b.c_se = rng().pick(Sizes{1, 2, 4, 8, 10, 17});
  if (rng().integer(0, 3) > 0) b.c_out = any_channels();
  b.window = any_window();
  if (b.c_out > 0 && rng().integer(0, 2) == 0) {
    b.residual = true;
    b.c_out = b.c_in;
    const std::int64_t dilation = rng().integer(0, 2) > 0 ? 1 : 2;
    b.window = centred(static_cast<std::int32_t>(rng().pick(Sizes{1, 3, 5, 7})), 1,
                       static_cast<std::int32_t>(dilation));
    b.window.window.same = rng().integer(0, 3) == 0;
  }
  return b;
}

WEEBILL_RECORD_TEST(separable_random) {
  const int cases = few_cases() ? 60 : 600;
  for (int i = 0; i < cases; ++i) {
    const Block b = any_block();
    check_block(b, any_image(b.c_in), any_layout_of_input(), rng().coin());
  }
}

/// Sizes at which strips, bands and rings of rows begin, end and wrap.
WEEBILL_TEST(separable_heights) {
  for (std::int64_t h = 1; h <= 24; ++h) {
    if (options().quick && h % 3 != 1) continue;
    for (std::int32_t stride : {1, 2}) {
      for (std::int32_t kernel : {3, 5}) {
        const Block b{3, 17, 0, 9, true, false, centred(kernel, stride)};
        check_block(b, {1, 3, h, 9}, Layout::kNhwc, true);
      }
    }
  }
}

/// Intermediates that do not fit the second cache: several strips, whose rings of rows wrap.
WEEBILL_TEST(separable_strips) {
  for (std::int64_t h : {1, 2, 3, 4, 5, 7, 10, 13, 23}) {
    if (options().quick && h != 13) continue;
    for (std::int32_t stride : {1, 2}) {
      const auto kernel = static_cast<std::int32_t>(rng().pick(Sizes{3, 5}));
      const auto dilation = static_cast<std::int32_t>(rng().pick(Sizes{1, 1, 2}));
      const bool residual = stride == 1 && rng().coin();
      const Block b{2, 256, 0, residual ? 2 : 3, true, residual, centred(kernel, stride, dilation)};
      check_block(b, {1, 2, h, 130}, Layout::kNhwc, true);
    }
  }
}

/// Enough work for several threads to be used.
WEEBILL_RECORD_TEST(separable_on_threads) {
  // Fewer blocks of channels than threads: bands of rows share the sums of SE.
  for (bool expand : {false, true}) {
    const Block b{16, expand ? 24 : 16, 4, 16, expand, true, centred(5, 1)};
    check_block(b, {1, 16, 40, 40}, Layout::kNhwc, false);
  }
  const int cases = few_cases() ? 4 : 40;
  for (int i = 0; i < cases; ++i) {
    Block b = any_block();
    b.c_in = b.residual ? b.c_in : rng().pick(Sizes{16, 24, 33});
    b.c_mid = b.expand ? rng().pick(Sizes{48, 50, 88}) : b.c_in;
    const Shape x{rng().integer(1, 2), b.c_in, rng().integer(12, 30), rng().integer(12, 30)};
    check_block(b, x, Layout::kNhwc, rng().coin());
  }
}

/// A machine of this one's caches, with or without banks in the second.
class BankedL2 {
 public:
  explicit BankedL2(bool banked) : saved_(machine_caches()) {
    assume_caches({saved_.l1d_bytes, saved_.l2_bytes, banked});
  }
  ~BankedL2() { assume_caches(saved_); }
  BankedL2(const BankedL2&) = delete;
  BankedL2& operator=(const BankedL2&) = delete;

 private:
  const Caches saved_;
};

/// Pixels of scratch memory next to each other, and with room between them. Chunks and rests of
/// chunks of odd and even numbers of lines.
WEEBILL_RECORD_TEST(separable_scratch) {
  for (bool banked : {false, true}) {
    const BankedL2 machine(banked);
    for (std::int64_t c_mid : {16, 33, 64, 72, 120, 200, 264}) {
      if (few_cases() && c_mid % 3 != 0) continue;
      const auto stride = static_cast<std::int32_t>(rng().pick(Sizes{1, 2}));
      const bool expand = rng().integer(0, 3) > 0;
      const Block b{expand ? 7 : c_mid, c_mid, rng().coin() ? 8 : 0, 11, expand, false,
                    centred(3, stride)};
      check_block(b, {1, b.c_in, 9, rng().pick(Sizes{9, 28, 60})}, Layout::kNhwc, true);
    }
  }
}

/// Every subset of {expand, SE, projection, residual} on one awkward size, exact where it can be.
WEEBILL_RECORD_TEST(separable_every_part) {
  for (int parts = 0; parts < 16; ++parts) {
    const bool expand = parts & 1, se = parts & 2, project = parts & 4, residual = parts & 8;
    if (residual && !project) continue;
    for (bool integers : {true, false}) {
      const Block b{22,     expand ? 50 : 22, se ? 10 : 0,  project ? 22 : 0,
                    expand, residual,         centred(5, 1)};
      check_block(b, {2, 22, 9, 11}, Layout::kNhwc, integers);
      check_block(b, {1, 22, 1, 1}, Layout::kNchw, integers);
    }
  }
}

/// Blocks of MobileNetV3 and EfficientNet-Lite, at their widths.
WEEBILL_TEST(separable_of_networks) {
  const std::int64_t scale = options().quick ? 2 : 1;
  const struct {
    std::int64_t c_in, c_mid, c_se, c_out, side;
    std::int32_t kernel, stride, dilation;
  } rows[] = {
      {16, 64, 0, 24, 56, 3, 2, 1},     {24, 72, 0, 24, 56, 3, 1, 1},
      {40, 120, 32, 40, 28, 5, 1, 1},   {40, 240, 0, 80, 28, 3, 2, 1},
      {80, 200, 0, 80, 14, 3, 1, 1},    {80, 184, 0, 80, 14, 3, 1, 1},
      {112, 336, 84, 160, 14, 5, 2, 1}, {96, 288, 72, 96, 7, 5, 1, 1},
      {48, 144, 40, 48, 14, 5, 1, 2},
  };
  for (const auto& row : rows) {
    const bool residual = row.stride == 1 && row.c_in == row.c_out;
    const Block b{row.c_in,
                  row.c_mid,
                  row.c_se,
                  row.c_out,
                  true,
                  residual,
                  centred(row.kernel, row.stride, row.dilation)};
    check_block(b, {1, row.c_in, row.side / scale, row.side / scale}, Layout::kNhwc, false);
  }
  const Block first{16, 16, 8, 16, false, false, centred(3, 2)};
  check_block(first, {1, 16, 40, 40}, Layout::kNchw, false);
  // TensorFlow's SAME at stride 2 on even and odd sizes.
  for (std::int64_t side : {14, 15}) {
    Block b{24, 72, 0, 40, true, false, centred(5, 2)};
    b.window.window.same = 1;
    check_block(b, {1, 24, side, side}, Layout::kNhwc, true);
  }
}

}  // namespace
}  // namespace weebill::testing
