// moments_f32, normalize_f32, normalize_sums_f32 and normalize_backward_f32.
#include "kernel_cases.h"

namespace weebill::testing {
namespace {

using reference::Bounded;
using reference::kUnit;

const Sizes kPixels = {0, 1, 2, 7, 8, 9, 15, 16, 17, 49};

std::int64_t any_stride(std::int64_t channels) {
  return channels + (rng().coin() ? rng().integer(1, 20) : 0);
}

/// Pixels of `channels` values each, in memory with gaps between them.
struct Image {
  std::vector<float> values, spread_values;
  std::int64_t stride;
  Guarded<float> memory;

  Image(const char* name, std::int64_t pixels, std::int64_t channels, Flush flush)
      : values(rng().reals(pixels * channels)),
        spread_values(spread(values.data(), pixels, channels, stride_of(channels))),
        stride(last_stride),
        memory(name, spread_values, flush) {}

  bool unchanged() const { return memory.unchanged(spread_values); }

 private:
  static inline std::int64_t last_stride = 0;
  static std::int64_t stride_of(std::int64_t channels) {
    return last_stride = any_stride(channels);
  }
};

/// An output image; `result` checks that nothing else was written.
struct Result {
  std::int64_t pixels, channels, stride;
  Guarded<float> memory;

  Result(const char* name, std::int64_t n, std::int64_t c, Flush flush)
      : pixels(n),
        channels(c),
        stride(any_stride(c)),
        memory(name, static_cast<std::size_t>(n > 0 ? (n - 1) * stride + c : 0), flush) {}

  std::vector<float> values() {
    return gather(memory, pixels, channels, [&](std::int64_t p) { return p * stride; });
  }
};

/// A result whose blocks of channels lie apart, each with its pixels next to one another.
struct BlockedResult {
  std::int64_t pixels, channels, block_stride;
  Guarded<float> memory;

  BlockedResult(const char* name, std::int64_t n, std::int64_t c, Flush flush)
      : pixels(n),
        channels(c),
        block_stride((n + 1) * kBlock),
        memory(name, static_cast<std::size_t>(n > 0 ? at(n - 1, c - 1) + 1 : 0), flush) {}

  std::int64_t at(std::int64_t p, std::int64_t c) const {
    return c / kBlock * block_stride + p * kBlock + c % kBlock;
  }

  std::vector<float> values() const {
    std::vector<float> all;
    for (std::int64_t p = 0; p < pixels; ++p) {
      for (std::int64_t c = 0; c < channels; ++c) all.push_back(memory.data()[at(p, c)]);
    }
    return all;
  }
};

/// What turns x into the activation's argument u, per channel.
struct Channels {
  std::vector<float> mean, scale, shift;

  explicit Channels(std::int64_t channels)
      : mean(rng().reals(channels)), scale(rng().reals(channels)), shift(rng().reals(channels)) {
    // Arguments on both sides of every kink.
    for (float& s : scale) s *= 4;
  }

  Bounded centred(float x, std::size_t c) const {
    const double d = static_cast<double>(x) - mean[c];
    return {d, kUnit * std::abs(d)};
  }
  Bounded argument(float x, std::size_t c) const {
    return reference::add(reference::multiply(centred(x, c), {scale[c], 0}), {shift[c], 0});
  }
};

double slope(std::int32_t activation, double u) {
  const double y = reference::activate(kActSigmoid, u);
  switch (activation) {
    case kActRelu:
      return u > 0 ? 1 : 0;
    case kActRelu6:
      return u > 0 && u < 6 ? 1 : 0;
    case kActHardswish:
      return u < -3 ? 0 : (u <= 3 ? u / 3 + 0.5 : 1);
    case kActHardsigmoid:
      return std::abs(u) < 3 ? 1.0 / 6 : 0;
    case kActHardsigmoidPaddle:
      return std::abs(u) < 2.5 ? 0.2 : 0;
    case kActSilu:
      return y * (1 + u * (1 - y));
    case kActSigmoid:
      return y * (1 - y);
    default:
      return 1;
  }
}

/// act'(u) * dy. Where u cannot be told from a kink, both slopes are right.
Bounded gradient(std::int32_t activation, const Bounded& u, float dy) {
  const double at = slope(activation, u.value);
  double off = 0;
  // The kinks' own arithmetic rounds at a size of at most 6.
  const double reach = u.error + 8 * kUnit;
  for (double end : {u.value - reach, u.value + reach}) {
    off = std::max(off, std::abs(slope(activation, end) - at));
  }
  const bool exponential = activation == kActSilu || activation == kActSigmoid;
  off += (exponential ? 16 * (1 + std::abs(u.value)) : 8) * kUnit;
  return reference::multiply({at, off}, {dy, 0});
}

template <typename Case>
void for_cases(Case&& run) {
  for (std::int64_t channels : selected(kChannels, 9)) {
    for (std::int64_t pixels : selected(kPixels, 5)) run(pixels, channels);
  }
}

void describe(const std::string& isa, std::int64_t pixels, std::int64_t channels,
              std::int32_t activation, Flush flush) {
  set_case("isa %s pixels %lld channels %lld activation %d %s", isa.c_str(),
           static_cast<long long>(pixels), static_cast<long long>(channels), activation,
           flush_name(flush));
}

std::vector<float> all_of(const Guarded<float>& memory) {
  return {memory.data(), memory.data() + memory.size()};
}

}  // namespace

void test_cases_of_moments_f32() {
  for_cases([](std::int64_t pixels, std::int64_t channels) {
    for (const auto& variant : variants(&KernelTable::moments_f32)) {
      const Flush flush = any_flush();
      describe(variant.isa, pixels, channels, 0, flush);
      const Image x("x", pixels, channels, flush);
      const std::vector<float> shift = rng().reals(channels);
      const std::vector<float> sum = rng().reals(channels), square = rng().reals(channels);
      std::vector<Bounded> sums, squares;
      for (std::size_t c = 0; c < shift.size(); ++c) {
        reference::Dot first, second;
        first.add(1, {sum[c], 0});
        second.add(1, {square[c], 0});
        for (std::int64_t p = 0; p < pixels; ++p) {
          const double d =
              static_cast<double>(x.values[static_cast<std::size_t>(p * channels) + c]) - shift[c];
          first.add(1, {d, 0});
          second.add(d, {d, 0});
        }
        sums.push_back(first.result(1));
        squares.push_back(second.result(2));
      }
      const Guarded<float> around("shift", shift, flush);
      const Guarded<float> total("sum", sum, flush), total_square("square", square, flush);
      variant.kernel({x.memory.data(), x.stride, around.data(), total.data(), total_square.data(),
                      pixels, channels});
      WEEBILL_EXPECT(x.unchanged() && around.unchanged(shift));
      WEEBILL_EXPECT(total.intact() && total_square.intact());
      expect_bounded(all_of(total), sums, channels);
      expect_bounded(all_of(total_square), squares, channels);
    }
  });
}

void test_cases_of_normalize_f32() {
  for_cases([](std::int64_t pixels, std::int64_t channels) {
    for (const auto& variant : variants(&KernelTable::normalize_f32)) {
      for (std::int32_t activation : kActivations) {
        const Flush flush = any_flush();
        describe(variant.isa, pixels, channels, activation, flush);
        const Image x("x", pixels, channels, flush);
        const Channels per(channels);
        std::vector<Bounded> expected;
        for (std::size_t i = 0; i < x.values.size(); ++i) {
          const std::size_t c = i % static_cast<std::size_t>(channels);
          expected.push_back(reference::apply(activation, per.argument(x.values[i], c)));
        }
        const Guarded<float> mean("mean", per.mean, flush), scale("scale", per.scale, flush),
            shift("shift", per.shift, flush);
        for (const bool stream : {false, true}) {
          Result y("y", pixels, channels, flush);
          variant.kernel({x.memory.data(), x.stride, mean.data(), scale.data(), shift.data(),
                          y.memory.data(), y.stride, pixels, channels, activation, stream});
          WEEBILL_EXPECT(x.unchanged() && mean.unchanged(per.mean));
          WEEBILL_EXPECT(scale.unchanged(per.scale) && shift.unchanged(per.shift));
          expect_bounded(y.values(), expected, channels);
        }
        BlockedResult y("y", pixels, channels, flush);
        variant.kernel({x.memory.data(), x.stride, mean.data(), scale.data(), shift.data(),
                        y.memory.data(), kBlock, pixels, channels, activation, /*stream=*/false,
                        y.block_stride});
        WEEBILL_EXPECT(y.memory.intact());
        expect_bounded(y.values(), expected, channels);
      }
    }
  });
}

void test_cases_of_normalize_sums_f32() {
  for_cases([](std::int64_t pixels, std::int64_t channels) {
    for (const auto& variant : variants(&KernelTable::normalize_sums_f32)) {
      for (std::int32_t activation : kActivations) {
        const Flush flush = any_flush();
        describe(variant.isa, pixels, channels, activation, flush);
        const Image x("x", pixels, channels, flush), dy("dy", pixels, channels, flush);
        const Channels per(channels);
        const std::vector<float> start = rng().reals(channels);
        std::vector<Bounded> sums, dots;
        for (std::size_t c = 0; c < start.size(); ++c) {
          reference::Dot sum, dot;
          sum.add(1, {start[c], 0});
          dot.add(1, {start[c], 0});
          for (std::int64_t p = 0; p < pixels; ++p) {
            const std::size_t i = static_cast<std::size_t>(p * channels) + c;
            const Bounded g = gradient(activation, per.argument(x.values[i], c), dy.values[i]);
            sum.add(1, g);
            dot.add(per.centred(x.values[i], c).value, g);
          }
          sums.push_back(sum.result());
          dots.push_back(dot.result(1));
        }
        const Guarded<float> mean("mean", per.mean, flush), scale("scale", per.scale, flush),
            shift("shift", per.shift, flush);
        const Guarded<float> sum("sum", start, flush), dot("dot", start, flush);
        variant.kernel({dy.memory.data(), dy.stride, x.memory.data(), x.stride, mean.data(),
                        scale.data(), shift.data(), sum.data(), dot.data(), pixels, channels,
                        activation});
        WEEBILL_EXPECT(x.unchanged() && dy.unchanged());
        WEEBILL_EXPECT(sum.intact() && dot.intact());
        expect_bounded(all_of(sum), sums, channels);
        expect_bounded(all_of(dot), dots, channels);
      }
    }
  });
}

void test_cases_of_normalize_backward_f32() {
  for_cases([](std::int64_t pixels, std::int64_t channels) {
    for (const auto& variant : variants(&KernelTable::normalize_backward_f32)) {
      for (std::int32_t activation : kActivations) {
        const Flush flush = any_flush();
        describe(variant.isa, pixels, channels, activation, flush);
        const Image x("x", pixels, channels, flush), dy("dy", pixels, channels, flush);
        const Channels per(channels);
        const std::vector<float> offsets = rng().reals(channels), slopes = rng().reals(channels);
        std::vector<Bounded> expected;
        for (std::size_t i = 0; i < x.values.size(); ++i) {
          const std::size_t c = i % static_cast<std::size_t>(channels);
          const Bounded g = gradient(activation, per.argument(x.values[i], c), dy.values[i]);
          const Bounded scaled = reference::multiply(g, {per.scale[c], 0});
          const Bounded statistics = reference::add(
              reference::multiply(per.centred(x.values[i], c), {slopes[c], 0}), {offsets[c], 0});
          expected.push_back(reference::add(scaled, {-statistics.value, statistics.error}));
        }
        const Guarded<float> mean("mean", per.mean, flush), scale("scale", per.scale, flush),
            shift("shift", per.shift, flush), offset("offset", offsets, flush),
            slope_of("slope", slopes, flush);
        for (const bool stream : {false, true}) {
          Result dx("dx", pixels, channels, flush);
          variant.kernel({dy.memory.data(), dy.stride, x.memory.data(), x.stride, mean.data(),
                          scale.data(), shift.data(), offset.data(), slope_of.data(),
                          dx.memory.data(), dx.stride, pixels, channels, activation, stream});
          WEEBILL_EXPECT(x.unchanged() && dy.unchanged());
          expect_bounded(dx.values(), expected, channels);
        }
        BlockedResult dx("dx", pixels, channels, flush);
        variant.kernel({dy.memory.data(), dy.stride, x.memory.data(), x.stride, mean.data(),
                        scale.data(), shift.data(), offset.data(), slope_of.data(),
                        dx.memory.data(), kBlock, pixels, channels, activation, /*stream=*/false,
                        dx.block_stride});
        WEEBILL_EXPECT(dx.memory.intact());
        expect_bounded(dx.values(), expected, channels);
      }
    }
  });
}

}  // namespace weebill::testing
