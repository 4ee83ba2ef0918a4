// depthwise_backward_*.
#include <algorithm>
#include <memory>

#include "kernel_cases.h"
#include "reference_backward.h"

namespace weebill::testing {
namespace {

using reference::DepthwiseGradShape;

std::vector<float> draw(bool whole, std::int64_t count) {
  return whole ? rng().integers(count, -3, 3) : rng().reals(count);
}

std::int64_t any_stride(std::int64_t channels) {
  return channels + (rng().coin() ? rng().integer(1, 20) : 0);
}

/// Taps and their gradients as kernels hold them; lanes beyond the last channel are no outputs.
std::vector<float> pack_sums(const std::vector<float>& dw, std::int64_t taps,
                             std::int64_t channels) {
  float gap;
  std::memcpy(&gap, &kPoison, sizeof gap);
  std::vector<float> packed(
      static_cast<std::size_t>((channels + kBlock - 1) / kBlock * taps * kBlock), gap);
  for (std::int64_t t = 0; t < taps; ++t) {
    for (std::int64_t c = 0; c < channels; ++c) {
      packed[static_cast<std::size_t>((c / kBlock * taps + t) * kBlock + c % kBlock)] =
          dw[static_cast<std::size_t>(t * channels + c)];
    }
  }
  return packed;
}

/// The values of one problem.
struct Problem {
  DepthwiseGradShape s;
  bool whole;
  std::vector<std::vector<float>> dy;
  std::vector<float> x, w, start;
  reference::DepthwiseGrads expected;

  std::int64_t taps() const { return s.kernel_h * s.kernel_w; }
};

Problem draw_problem(const DepthwiseGradShape& s) {
  Problem p{s, rng().coin(), {}, {}, {}, {}, {}};
  for (std::int64_t r = 0; r < s.rows; ++r) {
    p.dy.push_back(draw(p.whole, s.dy_columns * s.channels));
  }
  p.x = draw(p.whole, s.columns * s.channels);
  p.w = draw(p.whole, s.channels * p.taps());
  p.start = draw(p.whole, p.taps() * s.channels);
  p.expected = reference::depthwise_grads(
      s,
      [&](std::int64_t r, std::int64_t j, std::int64_t c) {
        return p.dy[static_cast<std::size_t>(r)][static_cast<std::size_t>(j * s.channels + c)];
      },
      [&](std::int64_t i, std::int64_t c) {
        return p.x[static_cast<std::size_t>(i * s.channels + c)];
      },
      p.w.data(), p.start.data());
  if (p.whole) {
    for (auto* values : {&p.expected.dx, &p.expected.dw}) {
      for (auto& value : *values) value.error = 0;
    }
  }
  return p;
}

void describe(const std::string& isa, const DepthwiseGradShape& s, bool whole, Flush flush) {
  const auto number = [](std::int64_t value) { return static_cast<long long>(value); };
  set_case(
      "isa %s kernel %lldx%lld stride %lld dilation %lld first_row %lld row_step %lld "
      "rows %lld first %lld columns %lld dy_columns %lld channels %lld whole %d %s",
      isa.c_str(), number(s.kernel_h), number(s.kernel_w), number(s.stride), number(s.dilation),
      number(s.first_row), number(s.row_step), number(s.rows), number(s.first), number(s.columns),
      number(s.dy_columns), number(s.channels), whole, flush_name(flush));
}

template <typename Entry, typename Call>
void check(const DepthwiseGradShape& s, Entry entry, Call call) {
  const Problem p = draw_problem(s);
  const std::vector<float> weights = pack_depthwise(p.w, s.channels, p.taps());
  const std::vector<float> sums = pack_sums(p.start, p.taps(), s.channels);
  for (const auto& variant : variants(entry)) {
    const Flush flush = any_flush();
    describe(variant.isa, s, p.whole, flush);
    const std::int64_t dy_stride = any_stride(s.channels), x_stride = any_stride(s.channels);
    // Whole lines, so that results may go past the cache.
    const bool whole = rng().coin();
    const std::int64_t dx_stride =
        whole ? (s.channels + kBlock - 1) / kBlock * kBlock : any_stride(s.channels);
    std::vector<std::unique_ptr<Guarded<float>>> rows;
    std::vector<const float*> pointers;
    std::vector<std::vector<float>> images;
    for (const std::vector<float>& row : p.dy) {
      images.push_back(spread(row.data(), s.dy_columns, s.channels, dy_stride));
      rows.push_back(std::make_unique<Guarded<float>>("dy row", images.back(), flush));
      pointers.push_back(rows.back()->data());
    }
    const std::vector<float> x_image = spread(p.x.data(), s.columns, s.channels, x_stride);
    const Guarded<const float*> dy_rows("dy_rows", pointers, flush);
    const Guarded<float> w("w", weights, flush), dw("dw", sums, flush), x("x", x_image, flush);
    const std::int64_t size = s.columns > 0 ? (s.columns - 1) * dx_stride + s.channels : 0;
    const Guarded<float> dx("dx", static_cast<std::size_t>(size), flush);
    DepthwiseGradArgs a{};
    a.dy_rows = dy_rows.data();
    a.dy_stride = dy_stride;
    a.dy_columns = s.dy_columns;
    a.w = w.data();
    a.dw = dw.data();
    a.x = x.data();
    a.x_stride = x_stride;
    a.dx = dx.data();
    a.dx_stride = dx_stride;
    a.first_row = s.first_row;
    a.row_step = s.row_step;
    a.rows = s.rows;
    a.first = s.first;
    a.columns = s.columns;
    a.stream = rng().coin();
    if (rng().coin()) a.ahead = {no_address<float>(), no_address<float>(), any_stride(s.channels)};
    if (rng().coin()) {  // in two parts
      a.channels = rng().integer(0, s.channels / kBlock) * kBlock;
      call(variant.kernel, a);
      a.first_channel = a.channels;
    }
    a.channels = s.channels;
    call(variant.kernel, a);
    for (std::size_t r = 0; r < rows.size(); ++r) WEEBILL_EXPECT(rows[r]->unchanged(images[r]));
    WEEBILL_EXPECT(w.unchanged(weights));
    WEEBILL_EXPECT(x.unchanged(x_image));
    WEEBILL_EXPECT(dw.intact());
    expect_bounded(gather(dx, s.columns, s.channels, [&](std::int64_t i) { return i * dx_stride; }),
                   p.expected.dx, s.channels);
    std::vector<float> got(p.expected.dw.size());
    for (std::int64_t t = 0; t < p.taps(); ++t) {
      for (std::int64_t c = 0; c < s.channels; ++c) {
        const auto at = static_cast<std::size_t>((c / kBlock * p.taps() + t) * kBlock + c % kBlock);
        got[static_cast<std::size_t>(t * s.channels + c)] = dw[at];
        std::memcpy(&dw[at], &kPoison, sizeof(float));
      }
    }
    for (std::size_t i = 0; i < sums.size(); ++i) WEEBILL_EXPECT(is_poison(dw[i]));
    expect_bounded(got, p.expected.dw, s.channels);
  }
}

/// A range of window rows in steps of either direction, as a stride along the columns of the image
/// makes it.
void draw_rows(DepthwiseGradShape& s) {
  s.row_step = rng().integer(1, 2);
  s.first_row = rng().integer(0, s.kernel_h - 1);
  s.rows = rng().integer(0, (s.kernel_h - 1 - s.first_row) / s.row_step + 1);
  if (s.rows > 0 && rng().coin()) {
    s.first_row += (s.rows - 1) * s.row_step;
    s.row_step = -s.row_step;
  }
}

void test_tuned(void (*KernelTable::*entry)(const DepthwiseGradArgs&), std::int64_t kernel,
                std::int64_t stride) {
  for (std::int64_t channels : selected(kChannels, 9)) {
    for (std::int64_t columns = 0; columns <= 31; columns += rng().integer(1, 3)) {
      const std::int64_t first = rng().integer(0, kernel + 2), width = rng().integer(1, 33);
      DepthwiseGradShape s{kernel, kernel, stride, 1, 0, 1, 0, first, columns, width, channels};
      draw_rows(s);
      check(s, entry, [](auto* run, const DepthwiseGradArgs& a) { run(a); });
    }
  }
  // `same` padding, and whole tiles.
  for (std::int64_t channels : {8, 16, 24, 40, 72}) {
    for (std::int64_t columns : {7, 14, 16, 24, 28, 56}) {
      DepthwiseGradShape s{kernel,  kernel, stride,     1,       0,
                           1,       0,      kernel / 2, columns, (columns + stride - 1) / stride,
                           channels};
      draw_rows(s);
      check(s, entry, [](auto* run, const DepthwiseGradArgs& a) { run(a); });
    }
  }
}

}  // namespace

#define WEEBILL_CASES(kernel, stride)                                                        \
  void test_cases_of_depthwise_backward_k##kernel##s##stride##_f32() {                       \
    test_tuned(&KernelTable::depthwise_backward_k##kernel##s##stride##_f32, kernel, stride); \
  }
WEEBILL_CASES(3, 1)
WEEBILL_CASES(3, 2)
WEEBILL_CASES(5, 1)
WEEBILL_CASES(5, 2)
#undef WEEBILL_CASES

void test_cases_of_depthwise_backward_any_f32() {
  const int problems = options().quick ? 60 : 400;
  for (int i = 0; i < problems; ++i) {
    DepthwiseGradShape s{rng().integer(1, 7),
                         rng().integer(1, 7),
                         rng().integer(1, 3),
                         rng().integer(1, 3),
                         0,
                         1,
                         0,
                         rng().integer(0, 9),
                         rng().integer(0, 20),
                         rng().integer(1, 20),
                         rng().pick(kChannels)};
    draw_rows(s);
    check(s, &KernelTable::depthwise_backward_any_f32, [&s](auto* run, const DepthwiseGradArgs& a) {
      run({a, s.kernel_h, s.kernel_w, s.stride, s.dilation});
    });
  }
}

}  // namespace weebill::testing
