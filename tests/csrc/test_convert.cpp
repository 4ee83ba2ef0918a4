// narrow_f16 and widen_f16, and the conversions in plain C++ that they are compared with.
#include <cmath>

#include "kernel_cases.h"

namespace weebill::testing {
namespace {

/// By arithmetic on doubles, which has nothing in common with to_float().
double value_of(std::uint16_t bits) {
  const double sign = bits >> 15 != 0 ? -1 : 1;
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return fraction != 0 ? NAN : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

WEEBILL_TEST(half_to_float_is_exact_for_every_half) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<std::uint16_t>(bits)};
    set_case("half %04x", bits);
    WEEBILL_EXPECT(same(to_float(half), value_of(half.bits)));
    if (!std::isnan(to_float(half))) WEEBILL_EXPECT(to_half(to_float(half)).bits == bits);
  }
}

/// Halfway between every two neighbours, and a float to both sides of it.
WEEBILL_TEST(float_to_half_rounds_to_the_nearest_and_to_even) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto next = static_cast<std::uint16_t>(bits + 1);
    const double above = next == 0x7c00 ? 65536 : value_of(next);
    const auto middle =
        static_cast<float>((value_of(static_cast<std::uint16_t>(bits)) + above) / 2);
    set_case("half %04x and the next", bits);
    WEEBILL_EXPECT(to_half(middle).bits == (bits % 2 == 0 ? bits : next));
    WEEBILL_EXPECT(to_half(std::nextafter(middle, 0.0f)).bits == bits);
    WEEBILL_EXPECT(to_half(std::nextafter(middle, HUGE_VALF)).bits == next);
    WEEBILL_EXPECT(to_half(-middle).bits == (to_half(middle).bits | 0x8000));
  }
  WEEBILL_EXPECT(to_half(1e30f).bits == 0x7c00 && to_half(-INFINITY).bits == 0xfc00);
  WEEBILL_EXPECT(std::isnan(to_float(to_half(NAN))));
}

const Sizes kCounts = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 100};

}  // namespace

void test_cases_of_narrow_f16() {
  for (std::int64_t count : kCounts) {
    std::vector<float> values = rng().reals(count, -70000, 70000);
    for (std::int64_t i = 0; i < count; i += 3) values[static_cast<std::size_t>(i)] *= 1e-9f;
    if (count > 1) values[1] = NAN;
    for (const auto& variant : variants(&HalfKernelTable::narrow_f16)) {
      for (Flush flush : {Flush::kEnd, Flush::kStart}) {
        set_case("isa %s count %lld %s", variant.isa.c_str(), static_cast<long long>(count),
                 flush_name(flush));
        const Guarded<float> x("x", values, flush);
        const Guarded<Half> y("y", values.size(), flush);
        variant.kernel({x.data(), y.data(), count});
        WEEBILL_EXPECT(x.unchanged(values) && y.intact());
        expect_same_bits(gather(y, count, 1, [](std::int64_t i) { return i; }),
                         rounded<Half>(values), 1);
      }
    }
  }
}

void test_cases_of_widen_f16() {
  for (std::int64_t count : kCounts) {
    std::vector<Half> values;
    std::vector<float> expected;
    for (std::int64_t i = 0; i < count; ++i) {
      values.push_back({static_cast<std::uint16_t>(rng().integer(0, 0xffff))});
      expected.push_back(to_float(values.back()));
    }
    for (const auto& variant : variants(&HalfKernelTable::widen_f16)) {
      for (Flush flush : {Flush::kEnd, Flush::kStart}) {
        set_case("isa %s count %lld %s", variant.isa.c_str(), static_cast<long long>(count),
                 flush_name(flush));
        const Guarded<Half> x("x", values, flush);
        const Guarded<float> y("y", values.size(), flush);
        variant.kernel({x.data(), y.data(), count});
        WEEBILL_EXPECT(x.unchanged(values));
        expect_same_bits(gather(y, count, 1, [](std::int64_t i) { return i; }), expected, 1);
      }
    }
  }
}

}  // namespace weebill::testing
