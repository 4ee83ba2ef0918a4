// max_pool.
#include <algorithm>
#include <memory>

#include "kernel_cases.h"

namespace weebill::testing {

namespace {

template <typename T>
void test_max_pool(void (*TableFor<T>::*entry)(const MaxPoolArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  const std::vector<float> specials = {NAN, INFINITY, -INFINITY, -0.0f};
  for (std::int64_t channels : selected(kChannels, 12)) {
    for (int i = 0; i < (options().quick ? 3 : 12); ++i) {
      const bool common = i % 2 == 0;  // 3 wide, stride 2: the case with a path of its own
      const std::int64_t rows = rng().integer(1, 4);
      const std::int64_t taps = common ? 3 : rng().integer(1, 5);
      const std::int64_t stride = common ? 2 : rng().integer(1, 3);
      const std::int64_t dilation = common ? 1 : rng().integer(1, 2);
      const std::int64_t columns = rng().pick(Sizes{0, 1, 2, 3, 7, 10});
      const std::int64_t width = (columns - 1) * stride + (taps - 1) * dilation + 1;
      const std::int64_t x_stride = channels + rng().integer(0, 9);
      const std::int64_t y_stride = channels + rng().integer(0, 9);
      std::vector<std::vector<float>> lines;
      for (std::int64_t u = 0; u < rows; ++u) {
        lines.push_back(rounded<T>(rng().reals(std::max<std::int64_t>(width, 0) * channels)));
        if (!lines.back().empty() && rng().coin()) {
          const auto last = static_cast<std::int64_t>(lines.back().size()) - 1;
          lines.back()[static_cast<std::size_t>(rng().integer(0, last))] = rng().pick(specials);
        }
      }
      std::vector<reference::Bounded> expected(static_cast<std::size_t>(columns * channels));
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t c = 0; c < channels; ++c) {
          double best = -HUGE_VAL;
          for (std::int64_t u = 0; u < rows; ++u) {
            for (std::int64_t v = 0; v < taps; ++v) {
              const double value =
                  lines[static_cast<std::size_t>(u)]
                       [static_cast<std::size_t>((j * stride + v * dilation) * channels + c)];
              if (std::isnan(best) || value <= best) continue;
              best = value;
            }
          }
          expected[static_cast<std::size_t>(j * channels + c)] = {best, 0};
        }
      }
      for (const auto& variant : variants(entry)) {
        for (Flush flush : {Flush::kEnd, Flush::kStart}) {
          set_case(
              "isa %s channels %lld rows %lld taps %lld stride %lld dilation %lld columns "
              "%lld strides %lld %lld %s",
              variant.isa.c_str(), static_cast<long long>(channels), static_cast<long long>(rows),
              static_cast<long long>(taps), static_cast<long long>(stride),
              static_cast<long long>(dilation), static_cast<long long>(columns),
              static_cast<long long>(x_stride), static_cast<long long>(y_stride),
              flush_name(flush));
          std::vector<std::unique_ptr<Guarded<T>>> guarded;
          std::vector<std::vector<T>> images;
          std::vector<const T*> starts;
          for (const std::vector<float>& line : lines) {
            images.push_back(elements<T>(
                spread(line.data(), std::max<std::int64_t>(width, 0), channels, x_stride)));
            guarded.push_back(std::make_unique<Guarded<T>>("x", images.back(), flush));
            starts.push_back(guarded.back()->data());
          }
          const std::int64_t y_size = columns > 0 ? (columns - 1) * y_stride + channels : 0;
          const Guarded<T> y("y", static_cast<std::size_t>(y_size), flush);
          variant.kernel({starts.data(), x_stride, y.data(), y_stride, rows, taps, stride, dilation,
                          columns, channels});
          for (std::size_t u = 0; u < guarded.size(); ++u) {
            WEEBILL_EXPECT(guarded[u]->unchanged(images[u]));
          }
          expect_bounded(gather(y, columns, channels, [&](std::int64_t p) { return p * y_stride; }),
                         expected, channels);
        }
      }
    }
  }
}

}  // namespace

void test_cases_of_max_pool_f32() { test_max_pool<float>(&KernelTable::max_pool_f32); }
void test_cases_of_max_pool_f16() { test_max_pool<Half>(&HalfKernelTable::max_pool_f16); }

}  // namespace weebill::testing
