// pointwise_backward_weight_f32.
#include "kernel_cases.h"
#include "reference_backward.h"

namespace weebill::testing {
namespace {

const Sizes kPixels = {0, 1, 2, 3, 5, 7, 8, 31, 49, 64, 65, 130};
const Sizes kOutputs = {1, 2, 3, 5, 6, 7, 8, 11, 13, 14, 15, 16, 17, 24, 28, 29, 40};

void check(std::int64_t m, std::int64_t k, std::int64_t n) {
  const bool whole = rng().coin();
  auto draw = [whole](std::int64_t count) {
    return whole ? rng().integers(count, -3, 3) : rng().reals(count);
  };
  const std::vector<float> x_values = draw(m * k), dy_values = draw(m * n), start = draw(n * k);
  auto expected = reference::outer_products(
      m, k, n,
      [&](std::int64_t p, std::int64_t o) {
        return dy_values[static_cast<std::size_t>(p * n + o)];
      },
      [&](std::int64_t p, std::int64_t i) { return x_values[static_cast<std::size_t>(p * k + i)]; },
      start.data());
  if (whole) {
    for (auto& value : expected) value.error = 0;
  }
  const auto any_stride = [](std::int64_t c) {
    return c + (rng().coin() ? rng().integer(1, 9) : 0);
  };
  for (const auto& variant : variants(&KernelTable::pointwise_backward_weight_f32)) {
    const Flush flush = any_flush();
    const std::int64_t x_stride = any_stride(k), dy_stride = any_stride(n),
                       dw_stride = any_stride(k);
    const std::int64_t m_block = rng().coin() ? 64 : rng().integer(1, 20);
    set_case("isa %s m %lld k %lld n %lld m_block %lld whole %d %s", variant.isa.c_str(),
             static_cast<long long>(m), static_cast<long long>(k), static_cast<long long>(n),
             static_cast<long long>(m_block), whole, flush_name(flush));
    const std::vector<float> x_image = spread(x_values.data(), m, k, x_stride);
    const std::vector<float> dy_image = spread(dy_values.data(), m, n, dy_stride);
    const Guarded<float> x("x", x_image, flush), dy("dy", dy_image, flush);
    const Guarded<float> dw("dw", spread(start.data(), n, k, dw_stride), flush);
    variant.kernel(
        {x.data(), x_stride, dy.data(), dy_stride, dw.data(), dw_stride, m, k, n, m_block});
    WEEBILL_EXPECT(x.unchanged(x_image));
    WEEBILL_EXPECT(dy.unchanged(dy_image));
    expect_bounded(gather(dw, n, k, [&](std::int64_t o) { return o * dw_stride; }), expected, k);
  }
}

}  // namespace

void test_cases_of_pointwise_backward_weight_f32() {
  for (std::int64_t k : selected(kChannels, 8)) {
    for (std::int64_t n : selected(kOutputs, 6)) check(rng().pick(kPixels), k, n);
  }
  for (std::int64_t m : kPixels) check(m, 25, 7);
}

}  // namespace weebill::testing
