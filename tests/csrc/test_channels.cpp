// sum, scale, copy, block_copy, interleave and activate: loops over pixels and channels.
#include "kernel_cases.h"

namespace weebill::testing {
namespace {

using reference::Bounded;

const Sizes kPixels = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 49, 196};
constexpr std::int64_t kMostPixels = 196;

const std::vector<float> kSpecials = {NAN, INFINITY, -INFINITY, -0.0f, 1e-40f, -1e-40f};

/// Pixel data with a special value here and there.
template <typename T = float>
std::vector<float> draw(std::int64_t count) {
  std::vector<float> values = rng().reals(count);
  if (count > 0 && rng().integer(0, 3) == 0) {
    values[static_cast<std::size_t>(rng().integer(0, count - 1))] = rng().pick(kSpecials);
  }
  return rounded<T>(values);
}

std::int64_t any_stride(std::int64_t channels) {
  return channels + (rng().coin() ? rng().integer(1, 20) : 0);
}

void describe(const std::string& isa, std::int64_t pixels, std::int64_t channels,
              std::int64_t x_stride, std::int64_t y_stride, Flush flush) {
  set_case("isa %s pixels %lld channels %lld x_stride %lld y_stride %lld %s", isa.c_str(),
           static_cast<long long>(pixels), static_cast<long long>(channels),
           static_cast<long long>(x_stride), static_cast<long long>(y_stride), flush_name(flush));
}

}  // namespace

template <typename T>
void test_sum(void (*TableFor<T>::*entry)(const SumArgsOf<T>&)) {
  const reference::PrecisionScope scope(reference::kFloat32);
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 8)) {
      const std::vector<float> values = draw<T>(pixels * channels);
      const std::vector<float> start = rng().reals(channels);
      const auto expected = reference::sum(
          pixels, channels,
          [&](std::int64_t p, std::int64_t c) {
            return Bounded{values[static_cast<std::size_t>(p * channels + c)], 0};
          },
          start.data());
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t x_stride = any_stride(channels);
          describe(variant.isa, pixels, channels, x_stride, 0, flush);
          const std::vector<T> image =
              elements<T>(spread(values.data(), pixels, channels, x_stride));
          const Guarded<T> x("x", image, flush);
          const Guarded<float> sum("sum", start, flush);
          variant.kernel({x.data(), x_stride, sum.data(), pixels, channels});
          WEEBILL_EXPECT(x.unchanged(image));
          WEEBILL_EXPECT(sum.intact());
          expect_bounded({sum.data(), sum.data() + sum.size()}, expected, channels);
        }
      }
    }
  }
}

void test_cases_of_sum_f32() { test_sum<float>(&KernelTable::sum_f32); }
void test_cases_of_sum_f16() { test_sum<Half>(&HalfKernelTable::sum_f16); }

template <typename T>
void test_scale(void (*TableFor<T>::*entry)(const ScaleArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 8)) {
      const std::vector<float> values = draw<T>(pixels * channels);
      const std::vector<float> factors = draw<T>(channels);
      std::vector<Bounded> expected(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float factor = factors[i % static_cast<std::size_t>(channels)];
        expected[i] = reference::multiply({values[i], 0}, {factor, 0});
      }
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t x_stride = any_stride(channels), y_stride = any_stride(channels);
          describe(variant.isa, pixels, channels, x_stride, y_stride, flush);
          const std::vector<T> image =
              elements<T>(spread(values.data(), pixels, channels, x_stride));
          const Guarded<T> x("x", image, flush);
          const std::vector<T> factors_of_t = elements<T>(factors);
          const Guarded<T> scale("scale", factors_of_t, flush);
          const std::int64_t y_size = pixels > 0 ? (pixels - 1) * y_stride + channels : 0;
          const Guarded<T> y("y", static_cast<std::size_t>(y_size), flush);
          variant.kernel({x.data(), x_stride, scale.data(), y.data(), y_stride, pixels, channels});
          WEEBILL_EXPECT(x.unchanged(image));
          WEEBILL_EXPECT(scale.unchanged(factors_of_t));
          expect_bounded(gather(y, pixels, channels, [&](std::int64_t p) { return p * y_stride; }),
                         expected, channels);
        }
      }
    }
  }
}

void test_cases_of_scale_f32() { test_scale<float>(&KernelTable::scale_f32); }
void test_cases_of_scale_f16() { test_scale<Half>(&HalfKernelTable::scale_f16); }

void test_cases_of_copy_f32() {
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 8)) {
      const std::vector<float> values = draw(pixels * channels);
      for (const auto& variant : variants(&KernelTable::copy_f32)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          for (const bool stream : {false, true}) {
            const std::int64_t x_stride = any_stride(channels), y_stride = any_stride(channels);
            describe(variant.isa, pixels, channels, x_stride, y_stride, flush);
            const std::vector<float> image = spread(values.data(), pixels, channels, x_stride);
            const Guarded<float> x("x", image, flush);
            const std::int64_t y_size = pixels > 0 ? (pixels - 1) * y_stride + channels : 0;
            const Guarded<float> y("y", static_cast<std::size_t>(y_size), flush);
            variant.kernel({x.data(), x_stride, y.data(), y_stride, pixels, channels, stream});
            WEEBILL_EXPECT(x.unchanged(image));
            expect_same_bits(
                gather(y, pixels, channels, [&](std::int64_t p) { return p * y_stride; }), values,
                channels);
          }
        }
      }
    }
  }
}

void test_cases_of_block_copy_f32() {
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 8)) {
      const std::vector<float> values = draw(pixels * channels);
      for (const auto& variant : variants(&KernelTable::block_copy_f32)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t x_stride = any_stride(channels);
          const std::int64_t block_stride = pixels * kBlock + rng().integer(0, 20);
          describe(variant.isa, pixels, channels, x_stride, block_stride, flush);
          const std::vector<float> image = spread(values.data(), pixels, channels, x_stride);
          const Guarded<float> x("x", image, flush);
          auto at = [&](std::int64_t p, std::int64_t c) {
            return c / kBlock * block_stride + p * kBlock + c % kBlock;
          };
          const std::int64_t size = pixels > 0 ? at(pixels - 1, channels - 1) + 1 : 0;
          const Guarded<float> y("y", static_cast<std::size_t>(size), flush);
          variant.kernel({x.data(), x_stride, y.data(), block_stride, pixels, channels});
          WEEBILL_EXPECT(x.unchanged(image));
          // An element at a time: pixels of one channel.
          expect_same_bits(gather(y, pixels * channels, 1,
                                  [&](std::int64_t i) { return at(i / channels, i % channels); }),
                           values, 1);
        }
      }
    }
  }
}

template <typename T>
void test_interleave(void (*TableFor<T>::*entry)(const InterleaveArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 8)) {
      // Plane c, pixel p holds a number of its own, so a wrong index can't go unseen.
      std::vector<float> planes(static_cast<std::size_t>(channels * pixels));
      std::vector<Bounded> expected(planes.size());
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t p = 0; p < pixels; ++p) {
          const float number = rounded<T>({static_cast<float>(c * kMostPixels + p + 1)})[0];
          planes[static_cast<std::size_t>(c * pixels + p)] = number;
          expected[static_cast<std::size_t>(p * channels + c)] = {number, 0};
        }
      }
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t x_stride = any_stride(pixels);
          describe(variant.isa, pixels, channels, x_stride, channels, flush);
          const std::vector<T> image =
              elements<T>(spread(planes.data(), channels, pixels, x_stride));
          const Guarded<T> x("x", image, flush);
          const Guarded<T> y("y", expected.size(), flush);
          variant.kernel({x.data(), x_stride, y.data(), pixels, channels});
          WEEBILL_EXPECT(x.unchanged(image));
          expect_bounded(gather(y, pixels, channels, [&](std::int64_t p) { return p * channels; }),
                         expected, channels);
        }
      }
    }
  }
}

void test_cases_of_interleave_f32() { test_interleave<float>(&KernelTable::interleave_f32); }
void test_cases_of_interleave_f16() { test_interleave<Half>(&HalfKernelTable::interleave_f16); }

template <typename T>
void test_activate(void (*TableFor<T>::*entry)(const ActivateArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (std::int64_t pixels : selected(kPixels, 4)) {
      const std::int32_t activation = rng().pick(kActivations);
      std::vector<float> values = draw<T>(pixels * channels);
      for (float& value : values) value *= 8;
      std::vector<Bounded> expected(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        expected[i] = reference::apply(activation, {values[i], 0});
      }
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t stride = any_stride(channels);
          describe(variant.isa, pixels, channels, stride, activation, flush);
          const Guarded<T> x("x", elements<T>(spread(values.data(), pixels, channels, stride)),
                             flush);
          variant.kernel({x.data(), stride, pixels, channels, activation});
          expect_bounded(gather(x, pixels, channels, [&](std::int64_t p) { return p * stride; }),
                         expected, channels);
        }
      }
    }
  }
}

void test_cases_of_activate_f32() { test_activate<float>(&KernelTable::activate_f32); }
void test_cases_of_activate_f16() { test_activate<Half>(&HalfKernelTable::activate_f16); }

}  // namespace weebill::testing
