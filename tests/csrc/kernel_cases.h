// What the kernel tests share: the cases' declarations, sizes worth testing, packing of plain
// weights as kernels/args.h describes it (written here once more, on purpose: the core's own
// packing is not the judge of itself), and the comparison with the oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dispatch.h"
#include "guarded.h"
#include "harness.h"
#include "kernels/args.h"
#include "reference.h"

namespace weebill::testing {

// One function of cases per kernel. A kernel that is added to kernels.def without cases is an
// undefined reference to test_cases_of_<name> when the test is linked.
#define WEEBILL_KERNEL(name, Args, summary) void test_cases_of_##name();
#include "core/kernels.def"
#undef WEEBILL_KERNEL
#define WEEBILL_HALF_KERNEL(name, Args, summary) void test_cases_of_##name();
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL

// ------ kernels of float32 and float16 are tested by one function, with numbers that both can hold

template <typename T>
constexpr bool kIsHalf = std::is_same_v<T, Half>;

template <typename T>
using TableFor = std::conditional_t<kIsHalf<T>, HalfKernelTable, KernelTable>;

/// What a kernel of T reads.
template <typename T>
std::vector<T> elements(const std::vector<float>& values) {
  if constexpr (kIsHalf<T>) {
    std::vector<Half> halves;
    constexpr Half kGap{kPoison & 0xffff};
    for (float value : values) halves.push_back(is_poison(value) ? kGap : to_half(value));
    return halves;
  } else {
    return values;
  }
}

inline float number(float element) { return element; }
inline float number(Half element) { return to_float(element); }

/// Numbers that T can hold.
template <typename T>
std::vector<float> rounded(std::vector<float> values) {
  if constexpr (kIsHalf<T>) {
    for (float& value : values) value = to_float(to_half(value));
  }
  return values;
}

template <typename T>
constexpr reference::Precision kPrecision = kIsHalf<T> ? reference::kFloat16 : reference::kFloat32;

/// Nothing may be read or written here; fetching ahead does no harm.
template <typename T>
const T* no_address() {
  constexpr std::uintptr_t kFirstPage = 64;
  return reinterpret_cast<const T*>(kFirstPage);
}

using Sizes = std::vector<std::int64_t>;

/// Around every vector and block width, and the widths of real networks.
inline const Sizes kChannels = {1,  2,  3,  7,  8,  9,  15, 16, 17, 22, 23,  24, 25,
                                31, 32, 33, 40, 48, 50, 56, 64, 72, 88, 120, 200};

inline const std::vector<std::int32_t> kActivations = {
    kActNone, kActRelu,   kActRelu6, kActHardswish, kActHardsigmoid, kActHardsigmoidPaddle,
    kActSilu, kActSigmoid};

/// All of them, or with --quick (or if asked to) about `few`, drawn anew for each seed.
inline Sizes selected(const Sizes& all, std::size_t few, bool always_few = false) {
  if (!(options().quick || always_few) || all.size() <= few) return all;
  Sizes some;
  for (std::size_t i = 0; i < few; ++i) {
    const std::size_t first = i * all.size() / few, next = (i + 1) * all.size() / few;
    some.push_back(all[first + static_cast<std::size_t>(
                                   rng().integer(0, static_cast<std::int64_t>(next - first) - 1))]);
  }
  return some;
}

inline Flush any_flush() { return rng().coin() ? Flush::kEnd : Flush::kStart; }

template <typename Args>
struct Variant {
  std::string isa;
  void (*kernel)(const Args&);
};

template <typename Args>
std::vector<Variant<Args>> variants(void (*KernelTable::*entry)(const Args&)) {
  std::vector<Variant<Args>> all;
  for (const std::string& isa : tested_isas()) {
    const auto kernel = kernels_of(isa).*entry;  // two tables may share it
    bool seen = false;
    for (const Variant<Args>& other : all) seen = seen || other.kernel == kernel;
    if (!seen) all.push_back({isa, kernel});
  }
  return all;
}

template <typename Args>
std::vector<Variant<Args>> variants(void (*HalfKernelTable::*entry)(const Args&)) {
  std::vector<Variant<Args>> all;
  for (const std::string& isa : tested_isas()) {
    const HalfKernelTable* table = half_kernels_of(isa);
    if (table == nullptr) continue;
#if defined(__aarch64__)
    // Rounding in software under an emulator takes minutes; the PC's own tests have done it.
    if (options().quick && isa == "scalar") continue;
#endif
    bool seen = false;
    for (const Variant<Args>& other : all) seen = seen || other.kernel == table->*entry;
    if (!seen) all.push_back({isa, table->*entry});
  }
  return all;
}

/// `count` values spread by `stride`, the gaps poisoned; nothing after the last.
inline std::vector<float> spread(const float* values, std::int64_t pixels, std::int64_t channels,
                                 std::int64_t stride) {
  float gap;
  std::memcpy(&gap, &kPoison, sizeof gap);
  const std::int64_t size = pixels > 0 ? (pixels - 1) * stride + channels : 0;
  std::vector<float> out(static_cast<std::size_t>(size), gap);
  for (std::int64_t p = 0; p < pixels && channels > 0; ++p) {
    std::memcpy(&out[static_cast<std::size_t>(p * stride)], values + p * channels,
                static_cast<std::size_t>(channels) * sizeof(float));
  }
  return out;
}

/// Weights (n, k) in blocks of 16 outputs, [k][16], a last block of at most 8 as [k][8].
inline std::vector<float> pack_pointwise(const std::vector<float>& w, std::int64_t n,
                                         std::int64_t k, std::int64_t block_stride) {
  const std::int64_t blocks = (n + kBlock - 1) / kBlock;
  const std::int64_t last_width = n - (blocks - 1) * kBlock <= kHalfBlock ? kHalfBlock : kBlock;
  float gap;
  std::memcpy(&gap, &kPoison, sizeof gap);
  std::vector<float> packed(static_cast<std::size_t>((blocks - 1) * block_stride + k * last_width),
                            gap);
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t width = b + 1 < blocks ? kBlock : last_width;
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t o = b * kBlock + lane;
        packed[static_cast<std::size_t>(b * block_stride + i * width + lane)] =
            o < n ? w[static_cast<std::size_t>(o * k + i)] : 0.0f;
      }
    }
  }
  return packed;
}

/// A bias of n entries, padded with zeros to whole pointwise blocks (16, or 8 for a half block).
inline std::vector<float> pad_pointwise_bias(std::vector<float> bias) {
  const std::size_t rest = bias.size() % kBlock;
  const std::size_t last = rest == 0 ? 0 : (rest <= kHalfBlock ? kHalfBlock : kBlock);
  bias.resize(bias.size() - rest + last);
  return bias;
}

/// Weights (channels, taps) as [ceil(channels / 16)][taps][16].
inline std::vector<float> pack_depthwise(const std::vector<float>& w, std::int64_t channels,
                                         std::int64_t taps) {
  const std::int64_t blocks = (channels + kBlock - 1) / kBlock;
  std::vector<float> packed(static_cast<std::size_t>(blocks * taps * kBlock));
  for (std::int64_t c = 0; c < channels; ++c) {
    for (std::int64_t t = 0; t < taps; ++t) {
      packed[static_cast<std::size_t>((c / kBlock * taps + t) * kBlock + c % kBlock)] =
          w[static_cast<std::size_t>(c * taps + t)];
    }
  }
  return packed;
}

inline std::vector<float> pad_depthwise_bias(std::vector<float> bias) {
  bias.resize((bias.size() + kBlock - 1) / kBlock * kBlock);
  return bias;
}

/// Takes pixel p's channels from y + position(p), and reports anything else in y that was written.
template <typename T, typename Position>
std::vector<float> gather(const Guarded<T>& y, std::int64_t pixels, std::int64_t channels,
                          Position position) {
  std::vector<T> all(y.data(), y.data() + y.size());
  std::vector<float> taken(static_cast<std::size_t>(pixels * channels));
  T gap;
  std::memcpy(&gap, &kPoison, sizeof gap);
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (std::int64_t c = 0; c < channels; ++c) {
      T& at = all[static_cast<std::size_t>(position(p) + c)];
      taken[static_cast<std::size_t>(p * channels + c)] = number(at);
      at = gap;
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!is_poison(all[i])) {
      WEEBILL_FAIL("y[%zu] is no output, but %g was written there", i,
                   static_cast<double>(number(all[i])));
      break;
    }
  }
  if (!y.intact()) WEEBILL_FAIL("written outside of y");
  return taken;
}

/// Compares with the oracle; one failure per call, the worst element.
inline void expect_bounded(const std::vector<float>& got,
                           const std::vector<reference::Bounded>& expected, std::int64_t channels) {
  double worst = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double ratio = reference::error_ratio(got[i], expected[i]);
    if (ratio > worst) {
      worst = ratio;
      where = i;
    }
  }
  if (worst <= 1) {
    note_error_ratio(worst);
    return;
  }
  const auto width = static_cast<std::size_t>(channels);
  WEEBILL_FAIL("pixel %zu channel %zu: got %.9g, expected %.9g +- %.3g", where / width,
               where % width, static_cast<double>(got[where]), expected[where].value,
               expected[where].error);
}

/// The same bits in the first got.size() elements.
inline void expect_same_bits(const std::vector<float>& got, const std::vector<float>& expected,
                             std::int64_t channels) {
  if (got.empty() || std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0) {
    return;
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(float)) == 0) continue;
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;  // any NaN is as good
    const auto width = static_cast<std::size_t>(channels);
    WEEBILL_FAIL("pixel %zu channel %zu: got %.9g, but %.9g from one call over all pixels",
                 i / width, i % width, static_cast<double>(got[i]),
                 static_cast<double>(expected[i]));
    return;
  }
}

/// Whole-number data must come out exactly where the activation keeps whole numbers.
inline bool keeps_integers(std::int32_t activation) {
  return activation == kActNone || activation == kActRelu || activation == kActRelu6;
}

/// The epilogue on the oracle's side.
inline std::vector<reference::Bounded> finished(const std::vector<reference::Bounded>& z,
                                                std::int32_t activation, const float* residual,
                                                bool exact) {
  std::vector<reference::Bounded> y(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) {
    y[i] = reference::apply(activation, z[i]);
    if (residual != nullptr) y[i] = reference::add(y[i], {residual[i], 0});
    if (exact) y[i].error = 0;
  }
  return y;
}

}  // namespace weebill::testing
