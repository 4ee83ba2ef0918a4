// pointwise and conv2d: one kernel contract, without and with a table of offsets.
#include <algorithm>

#include "kernel_cases.h"

namespace weebill::testing {
namespace {

using reference::Bounded;

/// Logical data of one product, for the most pixels; fewer pixels are a prefix of it.
struct Problem {
  std::int64_t m, k, n;
  bool integers;
  std::int64_t x_stride;
  Sizes offsets;               ///< always k of them; the identity without a table
  std::int64_t lowest_offset;  ///< may be negative
  std::vector<float> image;    ///< element 0 is x + lowest_offset
  std::vector<float> w, bias, scale, residual;
  std::int64_t w_block_stride;
  std::vector<float> packed_w, packed_bias;
  std::vector<Bounded> plain, with_scale;  ///< before the activation

  float x(std::int64_t p, std::int64_t i) const {
    return image[static_cast<std::size_t>(p * x_stride + offsets[static_cast<std::size_t>(i)] -
                                          lowest_offset)];
  }
};

/// Whole numbers so small that no sum of products needs rounding.
template <typename T>
std::vector<float> draw(std::int64_t count, bool integers) {
  const std::int64_t most = kIsHalf<T> ? 1 : 3;
  return rounded<T>(integers ? rng().integers(count, -most, most) : rng().reals(count));
}

/// Of a table: taps in any order, or windows three wide with a stride of two on three channels, of
/// pixels or of planes.
enum class Taps { kAnywhere, kPixelWindows, kPlaneWindows };

template <typename T>
Problem make_problem(std::int64_t m, std::int64_t k, std::int64_t n, bool table,
                     Taps taps = Taps::kAnywhere) {
  Problem t{};
  t.m = m;
  t.k = k;
  t.n = n;
  t.integers = rng().coin();
  if (taps != Taps::kAnywhere) {
    const std::int64_t step = taps == Taps::kPixelWindows ? 3 : 1;
    const std::int64_t channel = step == 3 ? 1 : rng().integer(-10, 10 * m);
    const std::int64_t first = rng().integer(-50, 50), row = rng().integer(-10, 6 * m + 20);
    t.x_stride = 2 * step;
    for (std::int64_t i = 0; i < k; ++i) {
      t.offsets.push_back(first + i / 9 * row + i % 9 / 3 * step + i % 3 * channel);
    }
  } else if (table) {
    // Windows of neighbouring pixels overlap, taps lie in any order and may lie before x.
    t.x_stride = rng().integer(1, 9);
    t.lowest_offset = rng().coin() ? -rng().integer(1, 50) : 0;
    for (std::int64_t i = 0; i < k; ++i) {
      t.offsets.push_back(rng().integer(t.lowest_offset, t.lowest_offset + 2 * k + 5));
    }
  } else {
    t.x_stride = k + (rng().coin() ? rng().integer(1, 20) : 0);
    for (std::int64_t i = 0; i < k; ++i) t.offsets.push_back(i);
  }
  if (k > 0) t.lowest_offset = *std::min_element(t.offsets.begin(), t.offsets.end());
  const std::int64_t reach =
      k == 0 ? 0 : *std::max_element(t.offsets.begin(), t.offsets.end()) - t.lowest_offset + 1;
  t.image = draw<T>((m - 1) * t.x_stride + reach, t.integers);
  t.w = draw<T>(n * k, t.integers);
  t.bias = draw<T>(n, t.integers);
  t.scale = draw<T>(k, t.integers);
  t.residual = draw<T>(m * n, t.integers);
  t.w_block_stride = k * kBlock + (rng().coin() ? rng().integer(1, 40) : 0);
  t.packed_w = pack_pointwise(t.w, n, k, t.w_block_stride);
  t.packed_bias = pad_pointwise_bias(t.bias);
  auto x = [&t](std::int64_t p, std::int64_t i) { return t.x(p, i); };
  t.plain = reference::pointwise(m, k, n, x, t.w.data(), t.bias.data(), nullptr);
  if (!table) {
    t.with_scale = reference::pointwise(m, k, n, x, t.w.data(), t.bias.data(), t.scale.data());
  }
  return t;
}

enum Scale { kNoScale, kScaledPixels, kScaledWeights };

struct Epilogue {
  std::int32_t activation;
  bool residual;
  Scale scale;
};

struct Layout {
  std::int64_t m_block, y_stride, y_width, y_jump, y_column, residual_stride;
  Flush flush;
  std::int64_t y_block_jump = 0;
  std::int64_t position(std::int64_t p) const {
    return p * y_stride + (y_column + p) / y_width * y_jump;
  }
};

/// `jumps`: blocks of channels may lie apart.
Layout any_layout(std::int64_t m, std::int64_t n, bool jumps) {
  Layout layout{};
  layout.m_block = rng().pick(Sizes{1, 4, 7, std::max<std::int64_t>(m, 1), 1000});
  layout.y_stride = n + (rng().coin() ? rng().integer(1, 20) : 0);
  layout.y_width = rng().coin() ? 1000 : rng().integer(1, 20);
  layout.y_column = rng().integer(0, layout.y_width - 1);
  layout.y_jump = rng().coin() ? 0 : rng().integer(1, 3 * n);
  layout.residual_stride = n + (rng().coin() ? rng().integer(1, 20) : 0);
  layout.flush = any_flush();
  if (jumps && n % kBlock == 0 && rng().coin()) {
    if (rng().coin()) {  // behind the pixels of the block before
      layout.y_stride = kBlock;
      layout.y_block_jump = layout.position(m) + rng().integer(0, 20);
    } else {
      layout.y_block_jump = rng().integer(1, 20);
      layout.y_stride += n / kBlock * layout.y_block_jump;
    }
  }
  return layout;
}

/// The part of the image that m pixels read; what they do not read is poisoned.
std::vector<float> image_of(const Problem& t, std::int64_t m) {
  if (m == 0 || t.k == 0) return {};
  const auto [low, high] = std::minmax_element(t.offsets.begin(), t.offsets.end());
  std::vector<float> image(static_cast<std::size_t>((m - 1) * t.x_stride + *high - *low + 1));
  std::vector<bool> used(image.size(), false);
  for (std::int64_t p = 0; p < m; ++p) {
    for (std::int64_t offset : t.offsets) {
      used[static_cast<std::size_t>(p * t.x_stride + offset - *low)] = true;
    }
  }
  for (std::size_t i = 0; i < image.size(); ++i) {
    if (used[i]) {
      image[i] = t.image[i];
    } else {
      std::memcpy(&image[i], &kPoison, sizeof kPoison);
    }
  }
  return image;
}

/// Runs the kernel on the first m pixels between guard pages; returns (m, n).
template <typename T>
std::vector<float> run_kernel(const Problem& t, const Variant<PointwiseArgsOf<T>>& variant,
                              bool table, std::int64_t m, const Epilogue& epilogue,
                              const Layout& layout) {
  set_case(
      "isa %s m %lld k %lld n %lld activation %d residual %d scale %d table %d integers %d "
      "m_block %lld x_stride %lld y_stride %lld y_width %lld y_jump %lld y_column %lld "
      "y_block_jump %lld %s",
      variant.isa.c_str(), static_cast<long long>(m), static_cast<long long>(t.k),
      static_cast<long long>(t.n), epilogue.activation, epilogue.residual, epilogue.scale, table,
      t.integers, static_cast<long long>(layout.m_block), static_cast<long long>(t.x_stride),
      static_cast<long long>(layout.y_stride), static_cast<long long>(layout.y_width),
      static_cast<long long>(layout.y_jump), static_cast<long long>(layout.y_column),
      static_cast<long long>(layout.y_block_jump), flush_name(layout.flush));
  const Flush flush = layout.flush;
  const std::vector<T> image = elements<T>(image_of(t, m));
  const std::vector<T> residual_values =
      elements<T>(spread(t.residual.data(), m, t.n, layout.residual_stride));
  const std::vector<T> packed_w = elements<T>(t.packed_w), packed_bias = elements<T>(t.packed_bias);
  const std::vector<T> factors = elements<T>(t.scale);
  const Guarded<T> x("x", image, flush);
  const Guarded<std::int64_t> offsets("offsets", t.offsets, flush);
  const Guarded<T> w("w", packed_w, flush);
  const Guarded<T> bias("bias", packed_bias, flush);
  const Guarded<T> scale("scale", factors, flush);
  const Guarded<T> residual("residual", residual_values, flush);
  const std::int64_t scratch_size = epilogue.scale == kNoScale ? 0
                                    : epilogue.scale == kScaledPixels
                                        ? std::min(m, layout.m_block) * t.k
                                        : kScaledBlocks * t.w_block_stride;
  const Guarded<T> scratch("scratch", static_cast<std::size_t>(scratch_size), flush);
  const std::int64_t blocks = (t.n + kBlock - 1) / kBlock;
  const std::int64_t y_size =
      m > 0 ? layout.position(m - 1) + t.n + (blocks - 1) * layout.y_block_jump : 0;
  const Guarded<T> y("y", static_cast<std::size_t>(y_size), flush);

  PointwiseArgsOf<T> args{};
  args.x = x.data() - (table ? t.lowest_offset : 0);
  args.x_stride = t.x_stride;
  args.offsets = table ? offsets.data() : nullptr;
  args.w = w.data();
  args.w_block_stride = t.w_block_stride;
  args.bias = bias.data();
  args.y = y.data();
  args.y_stride = layout.y_stride;
  args.y_width = layout.y_width;
  args.y_jump = layout.y_jump;
  args.y_column = layout.y_column;
  args.y_block_jump = layout.y_block_jump;
  args.residual = epilogue.residual ? residual.data() : nullptr;
  args.residual_stride = layout.residual_stride;
  args.scale = epilogue.scale != kNoScale ? scale.data() : nullptr;
  args.scratch = epilogue.scale != kNoScale ? scratch.data() : nullptr;
  args.m = m;
  args.k = t.k;
  args.n = t.n;
  args.m_block = layout.m_block;
  args.activation = epilogue.activation;
  args.scale_weights = epilogue.scale == kScaledWeights;
  // Where the fetching of weights stands changes nothing, and it goes no further than its reach.
  const T* const weights_end = w.data() + packed_w.size();
  const T* const stands = rng().pick(std::vector<const T*>{nullptr, w.data(), weights_end});
  AheadOf<T> ahead{stands, rng().integer(0, 3 * kBlock * std::max<std::int64_t>(t.k, 1))};
  if (rng().coin()) args.ahead = &ahead;
  variant.kernel(args);
  if (args.ahead == nullptr) {
    WEEBILL_EXPECT(ahead.next == stands);
  } else {
    WEEBILL_EXPECT(ahead.next >= stands && ahead.next <= weights_end + ahead.reach);
  }

  WEEBILL_EXPECT(x.unchanged(image));
  WEEBILL_EXPECT(offsets.unchanged(t.offsets));
  WEEBILL_EXPECT(w.unchanged(packed_w));
  WEEBILL_EXPECT(bias.unchanged(packed_bias));
  WEEBILL_EXPECT(scale.unchanged(factors));
  WEEBILL_EXPECT(residual.unchanged(residual_values));
  WEEBILL_EXPECT(scratch.intact());
  if (layout.y_block_jump == 0) {
    return gather(y, m, t.n, [&](std::int64_t p) { return layout.position(p); });
  }
  return gather(y, m * blocks, kBlock, [&](std::int64_t i) {
    return layout.position(i / blocks) + i % blocks * (kBlock + layout.y_block_jump);
  });
}

const std::vector<Scale> kScales = {kNoScale, kScaledPixels, kScaledWeights};

const Sizes kPixels = [] {
  Sizes sizes;
  for (std::int64_t m = 0; m <= 31; ++m) sizes.push_back(m);
  sizes.push_back(49);
  return sizes;
}();
constexpr std::int64_t kMostPixels = 49;

template <typename T>
void check_problem(const Problem& t, const std::vector<Variant<PointwiseArgsOf<T>>>& kernels,
                   bool table, const Sizes& pixels, const Epilogue& epilogue) {
  const std::vector<Bounded> expected =
      finished(epilogue.scale != kNoScale ? t.with_scale : t.plain, epilogue.activation,
               epilogue.residual ? t.residual.data() : nullptr,
               t.integers && keeps_integers(epilogue.activation));
  for (const Variant<PointwiseArgsOf<T>>& variant : kernels) {
    const std::vector<float> whole =
        run_kernel<T>(t, variant, table, t.m, epilogue, {t.m, t.n, t.m, 0, 0, t.n, Flush::kEnd});
    expect_bounded(whole, expected, t.n);
    // Any part of the pixels, in any layout and blocking, gives the same bits.
    for (std::int64_t m : pixels) {
      const std::vector<float> part =
          run_kernel<T>(t, variant, table, m, epilogue, any_layout(m, t.n, !epilogue.residual));
      expect_same_bits(part, whole, t.n);
    }
  }
}

template <typename T>
void test_products(void (*TableFor<T>::*entry)(const PointwiseArgsOf<T>&), bool table) {
  const reference::PrecisionScope scope(kPrecision<T>);
  const auto kernels = variants(entry);
  if (kernels.empty()) return;
  const Sizes pixels = selected(kPixels, 10, kIsHalf<T>);
  const Sizes depths = selected({0, 1, 2, 3, 16, 17, 50, 300}, 5, kIsHalf<T>);
  std::size_t turn = 0;
  for (std::int64_t n : selected(kChannels, 9, kIsHalf<T>)) {
    for (std::int64_t k : depths) {
      const Problem t = make_problem<T>(kMostPixels, k, n, table);
      for (int repeat = 0; repeat < 4; ++repeat, ++turn) {
        const Epilogue epilogue{kActivations[turn % kActivations.size()], rng().coin(),
                                table ? kNoScale : rng().pick(kScales)};
        check_problem<T>(t, kernels, table, pixels, epilogue);
      }
    }
  }
  // Every activation with and without residual and scale, on one awkward size.
  const Problem t = make_problem<T>(kMostPixels, 17, 25, table);
  for (std::int32_t activation : kActivations) {
    for (bool residual : {false, true}) {
      for (Scale scale : kScales) {
        if (scale != kNoScale && table) continue;
        check_problem<T>(t, kernels, table, pixels, {activation, residual, scale});
      }
    }
  }
  // Columns of a block and a half, which AVX-512 takes in pairs of pixels, and as many inputs as
  // make chunks of those, or not.
  for (std::int64_t n : {24, 40}) {
    for (std::int64_t k : selected({4, 8, 12, 24, 72, 512, 520}, 3, kIsHalf<T>)) {
      const Problem pairs = make_problem<T>(kMostPixels, k, n, table);
      for (std::int32_t activation : {kActNone, kActRelu, kActRelu6, kActHardswish, kActSilu}) {
        check_problem<T>(pairs, kernels, table, {28, 31, 42},
                         {activation, rng().coin(), table ? kNoScale : rng().pick(kScales)});
      }
    }
  }
  // A whole row of a large image.
  check_problem<T>(make_problem<T>(112, 24, 40, table), kernels, table, {97, 111},
                   {kActRelu, true, kNoScale});
}

/// Those of an image's first convolution, and others with two taps that have changed places.
template <typename T>
void test_windows(void (*TableFor<T>::*entry)(const PointwiseArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  const auto kernels = variants(entry);
  if (kernels.empty()) return;
  const Sizes pixels = selected({13, 14, 15, 27, 28, 29, 42, 49}, 3, kIsHalf<T>);
  std::size_t turn = 0;
  for (std::int64_t n : selected({8, 16, 20, 24, 32, 40, 48}, 3, kIsHalf<T>)) {
    for (std::int64_t k : {9, 18, 27}) {
      for (int kind = 0; kind < 4; ++kind) {
        const Taps taps = kind % 2 == 0 ? Taps::kPixelWindows : Taps::kPlaneWindows;
        Problem t = make_problem<T>(kMostPixels, k, n, true, taps);
        if (kind >= 2) {
          std::swap(t.offsets[static_cast<std::size_t>(rng().integer(0, k - 2))], t.offsets.back());
          t.plain = reference::pointwise(
              t.m, k, n, [&t](std::int64_t p, std::int64_t j) { return t.x(p, j); }, t.w.data(),
              t.bias.data(), nullptr);
        }
        for (int repeat = 0; repeat < 4; ++repeat, ++turn) {
          check_problem<T>(t, kernels, true, pixels,
                           {kActivations[turn % kActivations.size()], repeat == 3, kNoScale});
        }
      }
    }
  }
  for (Taps taps : {Taps::kPixelWindows, Taps::kPlaneWindows}) {
    check_problem<T>(make_problem<T>(112, 27, 16, true, taps), kernels, true, {111},
                     {kActHardswish, false, kNoScale});
  }
}

/// NaN, infinities, zeros of either sign and denormals, one pixel each, among padded lanes.
template <typename T>
void test_special_values(void (*TableFor<T>::*entry)(const PointwiseArgsOf<T>&), bool table) {
  const reference::PrecisionScope scope(kPrecision<T>);
  const std::vector<float> specials =
      rounded<T>({NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-40f, 1e-45f, 6e-8f, -3e-6f,
                  88.0f, -88.0f, 3e4f, 1e30f, -1e30f, 3.0f, -3.0f});
  const auto values = static_cast<std::int64_t>(specials.size()), m = 2 * values;
  for (std::int64_t n : {1, 3, 8, 9, 16, 17, 24, 33}) {
    for (std::int64_t k : {1, 3, 8}) {
      Problem t = make_problem<T>(m, k, n, false);
      t.integers = false;
      for (std::int64_t p = 0; p < m; ++p) {
        t.image[static_cast<std::size_t>(p * t.x_stride)] =
            specials[static_cast<std::size_t>(p % values)];
        for (std::int64_t i = 1; i < k; ++i) {
          t.image[static_cast<std::size_t>(p * t.x_stride + i)] = 0;
        }
      }
      std::fill(t.w.begin(), t.w.end(), 1.0f);
      std::fill(t.bias.begin(), t.bias.end(), 0.0f);
      t.packed_w = pack_pointwise(t.w, n, k, t.w_block_stride);
      t.packed_bias = pad_pointwise_bias(t.bias);
      t.plain = reference::pointwise(
          m, k, n, [&t](std::int64_t p, std::int64_t i) { return t.x(p, i); }, t.w.data(),
          t.bias.data(), nullptr);
      for (std::int32_t activation : kActivations) {
        check_problem<T>(t, variants(entry), table, {1, m}, {activation, false, kNoScale});
      }
    }
  }
}

}  // namespace

void test_cases_of_pointwise_f32() {
  test_products<float>(&KernelTable::pointwise_f32, false);
  test_special_values<float>(&KernelTable::pointwise_f32, false);
}

void test_cases_of_conv2d_f32() {
  test_products<float>(&KernelTable::conv2d_f32, true);
  test_windows<float>(&KernelTable::conv2d_f32);
  test_special_values<float>(&KernelTable::conv2d_f32, true);
}

void test_cases_of_pointwise_f16() {
  test_products<Half>(&HalfKernelTable::pointwise_f16, false);
  test_special_values<Half>(&HalfKernelTable::pointwise_f16, false);
}

void test_cases_of_conv2d_f16() {
  test_products<Half>(&HalfKernelTable::conv2d_f16, true);
  test_windows<Half>(&HalfKernelTable::conv2d_f16);
  test_special_values<Half>(&HalfKernelTable::conv2d_f16, true);
}

}  // namespace weebill::testing
