// channel_shuffle and shuffle_planes.
#include <algorithm>
#include <memory>

#include "kernel_cases.h"

namespace weebill::testing {

namespace {

template <typename T>
void test_channel_shuffle(void (*TableFor<T>::*entry)(const ShuffleArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  for (std::int64_t groups : {1, 2, 3, 4, 5, 8, 16, 23}) {
    for (std::int64_t channels :
         selected({0,  1,  2,  3,  8,  9,  15, 16,  17,  24,  31,  32,  33,
                   34, 48, 58, 63, 64, 65, 96, 116, 128, 129, 136, 232, 256},
                  14)) {
      const std::int64_t pixels = rng().pick(Sizes{0, 1, 2, 5});
      std::vector<std::int64_t> strides;
      std::vector<std::vector<T>> images;
      std::vector<float> expected(static_cast<std::size_t>(pixels * channels));
      for (std::int64_t j = 0; j < groups; ++j) {
        // The channels of this group that y has room for.
        const std::int64_t own = channels > j ? (channels - j + groups - 1) / groups : 0;
        const std::vector<float> values = rounded<T>(rng().reals(pixels * own));
        for (std::int64_t p = 0; p < pixels; ++p) {
          for (std::int64_t i = 0; i < own; ++i) {
            expected[static_cast<std::size_t>(p * channels + i * groups + j)] =
                values[static_cast<std::size_t>(p * own + i)];
          }
        }
        strides.push_back(own + rng().integer(0, 9));
        images.push_back(
            elements<T>(spread(values.data(), own > 0 ? pixels : 0, own, strides.back())));
      }
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          const std::int64_t y_stride = channels + rng().integer(0, 9);
          set_case("isa %s groups %lld channels %lld pixels %lld y_stride %lld %s",
                   variant.isa.c_str(), static_cast<long long>(groups),
                   static_cast<long long>(channels), static_cast<long long>(pixels),
                   static_cast<long long>(y_stride), flush_name(flush));
          std::vector<std::unique_ptr<Guarded<T>>> guarded;
          std::vector<const T*> starts;
          for (const std::vector<T>& image : images) {
            guarded.push_back(std::make_unique<Guarded<T>>("x", image, flush));
            starts.push_back(guarded.back()->data());
          }
          const std::int64_t y_size = pixels > 0 ? (pixels - 1) * y_stride + channels : 0;
          const Guarded<T> y("y", static_cast<std::size_t>(y_size), flush);
          variant.kernel(
              {starts.data(), strides.data(), y.data(), y_stride, pixels, groups, channels});
          for (std::size_t j = 0; j < guarded.size(); ++j) {
            WEEBILL_EXPECT(guarded[j]->unchanged(images[j]));
          }
          expect_same_bits(
              gather(y, pixels, channels, [&](std::int64_t p) { return p * y_stride; }), expected,
              channels);
        }
      }
    }
  }
}

}  // namespace

void test_cases_of_channel_shuffle_f32() {
  test_channel_shuffle<float>(&KernelTable::channel_shuffle_f32);
}
void test_cases_of_channel_shuffle_f16() {
  test_channel_shuffle<Half>(&HalfKernelTable::channel_shuffle_f16);
}

void test_cases_of_shuffle_planes() {
  for (std::int64_t bytes :
       selected({0, 1, 2, 31, 32, 33, 63, 64, 65, 100, 128, 196, 300, 511, 512, 513, 784}, 8)) {
    for (std::int64_t groups : {1, 2, 3, 8}) {
      const std::int64_t per_group = rng().integer(1, 7), planes = groups * per_group;
      const std::int64_t first = rng().integer(0, planes), count = rng().integer(0, planes - first);
      const std::int64_t stride = bytes + rng().integer(0, 9);
      // not a byte behind the last plane
      std::vector<std::uint8_t> image(static_cast<std::size_t>((planes - 1) * stride + bytes));
      for (std::uint8_t& value : image) value = static_cast<std::uint8_t>(rng().next());
      std::vector<std::uint8_t> expected;
      for (std::int64_t p = first; p < first + count; ++p) {
        const std::int64_t from = (p % groups * per_group + p / groups) * stride;
        expected.insert(expected.end(), image.begin() + from, image.begin() + from + bytes);
      }
      for (const auto& variant : variants(&KernelTable::shuffle_planes)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          set_case("isa %s bytes %lld stride %lld groups %lld of %lld, planes %lld + %lld %s",
                   variant.isa.c_str(), static_cast<long long>(bytes),
                   static_cast<long long>(stride), static_cast<long long>(groups),
                   static_cast<long long>(per_group), static_cast<long long>(first),
                   static_cast<long long>(count), flush_name(flush));
          const Guarded<std::uint8_t> x("x", image, flush), y("y", expected.size(), flush);
          variant.kernel({x.data(), stride, y.data(), bytes, first, count, groups, per_group});
          WEEBILL_EXPECT(x.unchanged(image));
          WEEBILL_EXPECT(y.intact());
          WEEBILL_EXPECT(std::equal(expected.begin(), expected.end(), y.data()));
        }
      }
    }
  }
}

}  // namespace weebill::testing
