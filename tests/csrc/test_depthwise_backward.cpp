// depthwise_backward_input_* and depthwise_backward_weight_*.
#include <algorithm>
#include <memory>

#include "kernel_cases.h"
#include "reference_backward.h"

namespace weebill::testing {
namespace {

using reference::InputGradShape;
using reference::WeightGradShape;

std::vector<float> draw(bool whole, std::int64_t count) {
  return whole ? rng().integers(count, -3, 3) : rng().reals(count);
}

std::int64_t any_stride(std::int64_t channels) {
  return channels + (rng().coin() ? rng().integer(1, 20) : 0);
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/// Rows of dy begin `before` columns before column 0, as far as the tuned kernels may read.
template <typename Entry, typename Call>
void check_input(const InputGradShape& s, bool padded, Entry entry, Call call) {
  const bool whole = rng().coin();
  std::int64_t before = 0, width = s.dy_columns;
  if (padded && s.columns > 0) {
    before = std::max<std::int64_t>(0, -floor_div(s.first - s.kernel_w + 1, s.stride));
    width = std::max(s.dy_columns, (s.first + s.columns - 1) / s.stride + 1);
  }
  std::vector<std::vector<float>> values;
  for (std::int64_t r = 0; r < s.rows; ++r) {
    std::vector<float> row(static_cast<std::size_t>((before + width) * s.channels), 0.0f);
    const std::vector<float> inside = draw(whole, s.dy_columns * s.channels);
    std::copy(inside.begin(), inside.end(), row.begin() + before * s.channels);
    values.push_back(row);
  }
  const std::vector<float> w = draw(whole, s.channels * s.kernel_h * s.kernel_w);
  const std::vector<float> packed = pack_depthwise(w, s.channels, s.kernel_h * s.kernel_w);
  auto expected = reference::depthwise_input_grad(
      s,
      [&](std::int64_t r, std::int64_t j, std::int64_t c) {
        return values[static_cast<std::size_t>(r)]
                     [static_cast<std::size_t>((before + j) * s.channels + c)];
      },
      w.data());
  if (whole) {
    for (auto& value : expected) value.error = 0;
  }
  for (const auto& variant : variants(entry)) {
    const Flush flush = any_flush();
    const std::int64_t dy_stride = any_stride(s.channels), dx_stride = any_stride(s.channels);
    set_case(
        "isa %s kernel %lldx%lld stride %lld dilation %lld first_row %lld row_step %lld "
        "rows %lld first %lld columns %lld dy_columns %lld channels %lld whole %d %s",
        variant.isa.c_str(), static_cast<long long>(s.kernel_h), static_cast<long long>(s.kernel_w),
        static_cast<long long>(s.stride), static_cast<long long>(s.dilation),
        static_cast<long long>(s.first_row), static_cast<long long>(s.row_step),
        static_cast<long long>(s.rows), static_cast<long long>(s.first),
        static_cast<long long>(s.columns), static_cast<long long>(s.dy_columns),
        static_cast<long long>(s.channels), whole, flush_name(flush));
    std::vector<std::unique_ptr<Guarded<float>>> rows;
    std::vector<const float*> pointers;
    std::vector<std::vector<float>> images;
    for (const std::vector<float>& row : values) {
      images.push_back(spread(row.data(), before + width, s.channels, dy_stride));
      rows.push_back(std::make_unique<Guarded<float>>("dy row", images.back(), flush));
      pointers.push_back(rows.back()->data() + before * dy_stride);
    }
    const Guarded<const float*> dy_rows("dy_rows", pointers, flush);
    const Guarded<float> weights("w", packed, flush);
    const std::int64_t size = s.columns > 0 ? (s.columns - 1) * dx_stride + s.channels : 0;
    const Guarded<float> dx("dx", static_cast<std::size_t>(size), flush);
    call(variant.kernel, DepthwiseInputGradArgs{dy_rows.data(),
                                                dy_stride,
                                                weights.data(),
                                                dx.data(),
                                                dx_stride,
                                                s.first_row,
                                                s.row_step,
                                                s.rows,
                                                s.first,
                                                s.columns,
                                                s.channels,
                                                {weights.data(), rng().integer(0, 40)}});
    for (std::size_t r = 0; r < rows.size(); ++r) WEEBILL_EXPECT(rows[r]->unchanged(images[r]));
    WEEBILL_EXPECT(weights.unchanged(packed));
    expect_bounded(gather(dx, s.columns, s.channels, [&](std::int64_t i) { return i * dx_stride; }),
                   expected, s.channels);
  }
}

/// A range of window rows in steps, as a stride along the columns of the image makes it.
void draw_rows(InputGradShape& s) {
  s.row_step = rng().integer(1, 2);
  s.first_row = rng().integer(0, s.kernel_h - 1);
  s.rows = rng().integer(0, (s.kernel_h - 1 - s.first_row) / s.row_step + 1);
}

void test_input(void (*KernelTable::*entry)(const DepthwiseInputGradArgs&), std::int64_t kernel,
                std::int64_t stride) {
  for (std::int64_t channels : selected(kChannels, 9)) {
    for (std::int64_t columns = 0; columns <= 31; columns += rng().integer(1, 3)) {
      InputGradShape s{kernel,  kernel,
                       stride,  1,
                       0,       1,
                       0,       rng().integer(0, kernel + 2),
                       columns, rng().integer(1, 33),
                       channels};
      draw_rows(s);
      check_input(s, true, entry, [](auto* run, const DepthwiseInputGradArgs& a) { run(a); });
    }
  }
}

template <typename Entry, typename Call>
void check_weight(const WeightGradShape& s, Entry entry, Call call) {
  const bool whole = rng().coin();
  const std::int64_t taps = s.kernel_h * s.kernel_w;
  const std::int64_t x_columns = (s.columns - 1) * s.stride + (s.kernel_w - 1) * s.dilation + 1;
  // Output rows step by one image row, rows of the window by `row`.
  const std::int64_t step = rng().integer(1, 2), row = rng().integer(1, 2);
  const std::int64_t x_rows =
      s.rows == 0 || s.columns == 0 ? 0 : (s.rows - 1) * step + (s.kernel_h - 1) * row + 1;
  const std::vector<float> x_values = draw(whole, x_rows * x_columns * s.channels);
  const std::vector<float> dy_values = draw(whole, s.rows * s.columns * s.channels);
  const std::vector<float> start = draw(whole, taps * s.channels);
  auto expected = reference::depthwise_weight_grad(
      s,
      [&](std::int64_t i, std::int64_t j, std::int64_t c) {
        return dy_values[static_cast<std::size_t>((i * s.columns + j) * s.channels + c)];
      },
      [&](std::int64_t i, std::int64_t u, std::int64_t column, std::int64_t c) {
        return x_values[static_cast<std::size_t>(
            ((i * step + u * row) * x_columns + column) * s.channels + c)];
      },
      start.data());
  if (whole) {
    for (auto& value : expected) value.error = 0;
  }
  // Lanes beyond the last channel are no outputs.
  std::vector<float> packed((s.channels + kBlock - 1) / kBlock * taps * kBlock);
  float gap;
  std::memcpy(&gap, &kPoison, sizeof gap);
  std::fill(packed.begin(), packed.end(), gap);
  const auto at = [&](std::int64_t t, std::int64_t c) {
    return static_cast<std::size_t>((c / kBlock * taps + t) * kBlock + c % kBlock);
  };
  for (std::int64_t t = 0; t < taps; ++t) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      packed[at(t, c)] = start[static_cast<std::size_t>(t * s.channels + c)];
    }
  }
  for (const auto& variant : variants(entry)) {
    const Flush flush = any_flush();
    const std::int64_t x_stride = any_stride(s.channels), dy_stride = any_stride(s.channels);
    set_case(
        "isa %s kernel %lldx%lld stride %lld dilation %lld rows %lld columns %lld "
        "channels %lld step %lld row %lld whole %d %s",
        variant.isa.c_str(), static_cast<long long>(s.kernel_h), static_cast<long long>(s.kernel_w),
        static_cast<long long>(s.stride), static_cast<long long>(s.dilation),
        static_cast<long long>(s.rows), static_cast<long long>(s.columns),
        static_cast<long long>(s.channels), static_cast<long long>(step),
        static_cast<long long>(row), whole, flush_name(flush));
    const std::vector<float> x_image =
        spread(x_values.data(), x_rows * x_columns, s.channels, x_stride);
    const std::vector<float> dy_image =
        spread(dy_values.data(), s.rows * s.columns, s.channels, dy_stride);
    const Guarded<float> x("x", x_image, flush), dy("dy", dy_image, flush);
    const Guarded<float> dw("dw", packed, flush);
    call(variant.kernel, DepthwiseWeightGradArgs{x.data(),
                                                 step * x_columns * x_stride,
                                                 row * x_columns * x_stride,
                                                 x_stride,
                                                 dy.data(),
                                                 s.columns * dy_stride,
                                                 dy_stride,
                                                 dw.data(),
                                                 s.rows,
                                                 s.columns,
                                                 s.channels,
                                                 {x.data(), rng().integer(0, 40)}});
    WEEBILL_EXPECT(x.unchanged(x_image));
    WEEBILL_EXPECT(dy.unchanged(dy_image));
    WEEBILL_EXPECT(dw.intact());
    std::vector<float> got(expected.size());
    for (std::int64_t t = 0; t < taps; ++t) {
      for (std::int64_t c = 0; c < s.channels; ++c) {
        got[static_cast<std::size_t>(t * s.channels + c)] = dw[at(t, c)];
        dw[at(t, c)] = gap;
      }
    }
    for (std::size_t i = 0; i < packed.size(); ++i) WEEBILL_EXPECT(is_poison(dw[i]));
    expect_bounded(got, expected, s.channels);
  }
}

void test_weight(void (*KernelTable::*entry)(const DepthwiseWeightGradArgs&), std::int64_t kernel,
                 std::int64_t stride) {
  for (std::int64_t channels : selected(kChannels, 9)) {
    for (std::int64_t columns : {0, 1, 2, 3, 4, 5, 7, 14}) {
      check_weight({kernel, kernel, stride, 1, rng().integer(0, 4), columns, channels}, entry,
                   [](auto* run, const DepthwiseWeightGradArgs& a) { run(a); });
    }
  }
}

}  // namespace

#define WEEBILL_CASES(kernel, stride)                                                              \
  void test_cases_of_depthwise_backward_input_k##kernel##s##stride##_f32() {                       \
    test_input(&KernelTable::depthwise_backward_input_k##kernel##s##stride##_f32, kernel, stride); \
  }                                                                                                \
  void test_cases_of_depthwise_backward_weight_k##kernel##s##stride##_f32() {                      \
    test_weight(&KernelTable::depthwise_backward_weight_k##kernel##s##stride##_f32, kernel,        \
                stride);                                                                           \
  }
WEEBILL_CASES(3, 1)
WEEBILL_CASES(3, 2)
WEEBILL_CASES(5, 1)
WEEBILL_CASES(5, 2)
#undef WEEBILL_CASES

void test_cases_of_depthwise_backward_input_any_f32() {
  const int problems = options().quick ? 60 : 400;
  for (int i = 0; i < problems; ++i) {
    InputGradShape s{rng().integer(1, 7),
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
    check_input(s, false, &KernelTable::depthwise_backward_input_any_f32,
                [&s](auto* run, const DepthwiseInputGradArgs& a) {
                  run({a, s.kernel_h, s.kernel_w, s.stride, s.dilation, s.dy_columns});
                });
  }
}

void test_cases_of_depthwise_backward_weight_any_f32() {
  const int problems = options().quick ? 60 : 300;
  for (int i = 0; i < problems; ++i) {
    const WeightGradShape s{rng().integer(1, 7),  rng().integer(1, 7), rng().integer(1, 3),
                            rng().integer(1, 3),  rng().integer(0, 3), rng().integer(0, 9),
                            rng().pick(kChannels)};
    check_weight(s, &KernelTable::depthwise_backward_weight_any_f32,
                 [&s](auto* run, const DepthwiseWeightGradArgs& a) {
                   run({a, s.kernel_h, s.kernel_w, s.stride, s.dilation});
                 });
  }
}

}  // namespace weebill::testing
