// The C++ tests' harness. Every test is registered with WEEBILL_TEST and draws its data from rng(),
// whose seed is printed and can be given back by --seed. The case in hand is described with
// set_case(): failures and crashes are reported under that description.
//
//   test_x [--list] [--filter TEXT] [--isa NAME] [--seed N] [--quick]
//
// Exit code: 0 all passed, 1 some failed, 2 bad usage, 3 crashed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weebill::testing {

struct Options {
  std::uint64_t seed = 0;
  std::string filter;  ///< tests whose name contains it
  std::string isa;     ///< only ISAs whose names begin so; empty is all runnable
  bool quick = false;  ///< fewer cases, for emulators and sanitizers
  bool list = false;
};
const Options& options();

/// xoshiro256**, seeded by SplitMix64: the same numbers on every platform (std's distributions
/// differ between libraries). Blackman and Vigna, https://prng.di.unimi.it.
class Rng {
 public:
  explicit Rng(std::uint64_t seed);
  std::uint64_t next();
  /// Uniform in [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high);
  /// Uniform in [low, high), a multiple of 2^-24 of the range.
  float real(float low, float high);
  bool coin() { return (next() >> 63) != 0; }
  template <typename T>
  const T& pick(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(integer(0, static_cast<std::int64_t>(from.size()) - 1))];
  }
  std::vector<float> reals(std::int64_t count, float low = -1, float high = 1);
  /// Whole numbers as floats: sums of their products are exact, whatever the order.
  std::vector<float> integers(std::int64_t count, std::int64_t low, std::int64_t high);

 private:
  std::uint64_t state_[4];
};

/// The running test's generator, seeded by --seed and the test's name.
Rng& rng();

/// The ISAs to test: those that run here, or those of them that --isa means.
std::vector<std::string> tested_isas();

/// Describes the case in hand. Cheap; call it before anything that may crash.
[[gnu::format(printf, 1, 2)]] void set_case(const char* format, ...);

/// Reports a failure of the case in hand. After 10 in one test that test is left.
void fail(const char* file, int line, const std::string& message);

/// A failed check of a bound also reports by how much; the worst ratio is shown in the summary.
void note_error_ratio(double ratio);

[[gnu::format(printf, 1, 2)]] std::string format(const char* text, ...);

using TestBody = void (*)();
struct Registration {
  Registration(const char* name, TestBody body);
};

#define WEEBILL_TEST(name)                                                                        \
  static void weebill_test_##name();                                                              \
  static const ::weebill::testing::Registration weebill_registration_##name(#name,                \
                                                                            weebill_test_##name); \
  static void weebill_test_##name()

#define WEEBILL_FAIL(...) \
  ::weebill::testing::fail(__FILE__, __LINE__, ::weebill::testing::format(__VA_ARGS__))

#define WEEBILL_EXPECT(condition)                              \
  do {                                                         \
    if (!(condition)) WEEBILL_FAIL("expected %s", #condition); \
  } while (false)

/// Expects an exception of exactly this type whose text is "<op>: ..." (any op if nullptr).
#define WEEBILL_EXPECT_THROW(Type, op, ...)                                            \
  do {                                                                                 \
    try {                                                                              \
      __VA_ARGS__;                                                                     \
      WEEBILL_FAIL("expected %s from %s", #Type, #__VA_ARGS__);                        \
    } catch (const Type& error) {                                                      \
      ::weebill::testing::expect_error_form(__FILE__, __LINE__, op, error.what());     \
    } catch (const std::exception& error) {                                            \
      WEEBILL_FAIL("expected %s from %s, got: %s", #Type, #__VA_ARGS__, error.what()); \
    }                                                                                  \
  } while (false)

/// "<op>: <argument> must <rule>, got <value>".
void expect_error_form(const char* file, int line, const char* op, const std::string& text);

}  // namespace weebill::testing
