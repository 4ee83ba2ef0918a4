// depthwise_k*s* and depthwise_any.
#include <memory>

#include "kernel_cases.h"

namespace weebill::testing {
namespace {

using reference::Bounded;
using reference::DepthwiseShape;

/// A window's place in its kernel, and how it moves along the row.
struct Window1d {
  DepthwiseShape shape;
  std::int64_t stride, dilation;
  /// Input columns that `columns` outputs reach.
  std::int64_t reach(std::int64_t columns) const {
    if (columns == 0 || shape.taps == 0) return 0;
    return (columns - 1) * stride + (shape.taps - 1) * dilation + 1;
  }
};

/// Logical data for the most columns; fewer columns are a prefix. Input rows are dense.
struct Problem {
  Window1d window;
  std::int64_t zeros_left, zeros_right;  // of the most columns
  bool integers;
  std::vector<std::vector<float>> rows;
  std::vector<float> w, bias, sum_start, packed_w, packed_bias;
  std::vector<Bounded> z;
};

template <typename T>
Problem make_problem(const Window1d& window, std::int64_t zeros_left = 0,
                     std::int64_t zeros_right = 0) {
  const DepthwiseShape& s = window.shape;
  Problem t{};
  t.window = window;
  t.zeros_left = zeros_left;
  t.zeros_right = zeros_right;
  t.integers = rng().coin();
  auto draw = [&t](std::int64_t count) {
    return rounded<T>(t.integers ? rng().integers(count, -3, 3) : rng().reals(count));
  };
  for (std::int64_t u = 0; u < s.rows; ++u) {
    t.rows.push_back(draw(window.reach(s.columns) * s.channels));
    std::vector<float>& row = t.rows.back();
    std::fill_n(row.begin(), zeros_left * s.channels, 0.0f);
    std::fill_n(row.rbegin(), zeros_right * s.channels, 0.0f);
  }
  t.w = draw(s.channels * s.kernel_h * s.kernel_w);
  t.bias = draw(s.channels);
  t.sum_start = draw(s.channels);
  t.packed_w = pack_depthwise(t.w, s.channels, s.kernel_h * s.kernel_w);
  t.packed_bias = pad_depthwise_bias(t.bias);
  auto x = [&](std::int64_t u, std::int64_t j, std::int64_t v, std::int64_t c) {
    const std::int64_t column = j * window.stride + v * window.dilation;
    return t.rows[static_cast<std::size_t>(u)][static_cast<std::size_t>(column * s.channels + c)];
  };
  t.z = reference::depthwise(s, x, t.w.data(), t.bias.data());
  return t;
}

/// Whether a kernel may not read the zeros at the ends of such rows (DepthwiseArgs::zeros_left).
template <typename T>
bool is_bare(const Problem& t, const std::string& isa, std::int64_t columns,
             std::int64_t zeros_right) {
  if constexpr (kIsHalf<T>) {
    return false;
  } else {
    const std::int64_t kernel = t.window.shape.kernel_w;
    return kernels_of(isa).leaves_zeros_out && t.window.shape.taps == kernel &&
           (columns % 14 == 0 || columns == 7) && columns > 0 && t.window.shape.channels % 8 == 0 &&
           (t.zeros_left == 0 || t.zeros_left == kernel / 2) &&
           (zeros_right == 0 || zeros_right == (kernel - t.window.stride) / 2);
  }
}

struct Run {
  std::int64_t columns;
  std::int64_t x_stride, y_stride;
  std::int32_t activation;
  bool sum;
  Flush flush;
  bool stream = rng().coin();
};

/// Calls `kernel(common)` on the first run.columns columns between guard pages; returns y dense and
/// checks the sums.
template <typename T, typename Kernel>
std::vector<float> run_kernel(const Problem& t, const std::string& isa, const Run& run,
                              Kernel kernel) {
  const DepthwiseShape& s = t.window.shape;
  set_case(
      "isa %s channels %lld columns %lld kernel %lldx%lld first_row %lld rows %lld "
      "first_tap %lld taps %lld stride %lld dilation %lld x_stride %lld y_stride %lld "
      "activation %d sum %d stream %d integers %d zeros %lld %lld %s",
      isa.c_str(), static_cast<long long>(s.channels), static_cast<long long>(run.columns),
      static_cast<long long>(s.kernel_h), static_cast<long long>(s.kernel_w),
      static_cast<long long>(s.first_row), static_cast<long long>(s.rows),
      static_cast<long long>(s.first_tap), static_cast<long long>(s.taps),
      static_cast<long long>(t.window.stride), static_cast<long long>(t.window.dilation),
      static_cast<long long>(run.x_stride), static_cast<long long>(run.y_stride), run.activation,
      run.sum, run.stream, t.integers, static_cast<long long>(t.zeros_left),
      static_cast<long long>(t.zeros_right), flush_name(run.flush));
  const std::int64_t reach = t.window.reach(run.columns);
  const std::int64_t left = std::min(t.zeros_left, reach);
  const std::int64_t right = run.columns == s.columns ? t.zeros_right : 0;
  // The columns that are not there.
  const bool bare = is_bare<T>(t, isa, run.columns, right);
  const std::int64_t before = bare ? left : 0, behind = bare ? right : 0;
  std::vector<std::vector<T>> row_values;
  std::vector<std::unique_ptr<Guarded<T>>> rows;
  std::vector<const T*> row_pointers;
  for (const std::vector<float>& row : t.rows) {
    row_values.push_back(elements<T>(spread(row.data() + before * s.channels,
                                            reach - before - behind, s.channels, run.x_stride)));
    rows.push_back(std::make_unique<Guarded<T>>("x row", row_values.back(), run.flush));
    row_pointers.push_back(rows.back()->data() - before * run.x_stride);
  }
  const Guarded<const T*> x_rows("x_rows", row_pointers, run.flush);
  const std::vector<T> packed_w = elements<T>(t.packed_w), packed_bias = elements<T>(t.packed_bias);
  const Guarded<T> w("w", packed_w, run.flush);
  const Guarded<T> bias("bias", packed_bias, run.flush);
  const Guarded<float> sum("sum", t.sum_start, run.flush);
  const std::int64_t y_size = run.columns > 0 ? (run.columns - 1) * run.y_stride + s.channels : 0;
  const Guarded<T> y("y", static_cast<std::size_t>(y_size), run.flush);

  DepthwiseArgsOf<T> args{};
  args.x_rows = x_rows.data();
  args.x_stride = run.x_stride;
  args.w = w.data();
  args.bias = bias.data();
  args.y = y.data();
  args.y_stride = run.y_stride;
  args.sum = run.sum ? sum.data() : nullptr;
  args.first_row = s.first_row;
  args.rows = s.rows;
  args.columns = run.columns;
  args.zeros_left = left;
  args.zeros_right = right;
  args.channels = s.channels;
  args.activation = run.activation;
  args.stream = run.stream;
  const NextRowsOf<T> ahead = {no_address<T>(), rng().integer(-1000, 1000)};
  if (rng().coin()) args.ahead = &ahead;
  kernel(args);

  for (std::size_t u = 0; u < rows.size(); ++u) WEEBILL_EXPECT(rows[u]->unchanged(row_values[u]));
  WEEBILL_EXPECT(x_rows.unchanged(row_pointers));
  WEEBILL_EXPECT(w.unchanged(packed_w));
  WEEBILL_EXPECT(bias.unchanged(packed_bias));
  const std::vector<float> out =
      gather(y, run.columns, s.channels, [&](std::int64_t j) { return j * run.y_stride; });
  if (run.sum) {
    WEEBILL_EXPECT(sum.intact());
    const reference::PrecisionScope scope(reference::kFloat32);
    const auto expected = reference::sum(
        run.columns, s.channels,
        [&](std::int64_t j, std::int64_t c) {
          // What was stored is what is summed: only the summation's own error counts.
          return Bounded{out[static_cast<std::size_t>(j * s.channels + c)], 0};
        },
        t.sum_start.data());
    expect_bounded({sum.data(), sum.data() + sum.size()}, expected, s.channels);
  } else {
    WEEBILL_EXPECT(sum.unchanged(t.sum_start));
  }
  return out;
}

Run any_run(std::int64_t columns, std::int64_t channels, std::int32_t activation) {
  return {columns,
          channels + (rng().coin() ? rng().integer(1, 20) : 0),
          channels + (rng().coin() ? rng().integer(1, 20) : 0),
          activation,
          rng().coin(),
          any_flush()};
}

template <typename T, typename Kernel>
void check_problem(const Problem& t, const std::string& isa, std::int32_t activation,
                   const Sizes& columns, Kernel kernel) {
  const DepthwiseShape& s = t.window.shape;
  const std::vector<float> whole = run_kernel<T>(
      t, isa, {s.columns, s.channels, s.channels, activation, true, Flush::kEnd}, kernel);
  expect_bounded(whole,
                 finished(t.z, activation, nullptr, t.integers && keeps_integers(activation)),
                 s.channels);
  for (std::int64_t part : columns) {
    expect_same_bits(run_kernel<T>(t, isa, any_run(part, s.channels, activation), kernel), whole,
                     s.channels);
  }
}

const Sizes kColumns = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 27, 28};
constexpr std::int64_t kMostColumns = 28;

/// A tuned kernel: its size and stride are fixed, every range of kernel rows is asked of it.
template <typename T>
void test_tuned(void (*TableFor<T>::*entry)(const DepthwiseArgsOf<T>&), std::int64_t kernel,
                std::int64_t stride) {
  const Sizes columns = selected(kColumns, 6, kIsHalf<T>);
  std::size_t turn = 0;
  for (std::int64_t channels : selected(kChannels, 9, kIsHalf<T>)) {
    for (std::int64_t first_row = 0; first_row <= kernel; ++first_row) {
      for (std::int64_t rows = first_row == 0 ? 0 : 1; first_row + rows <= kernel; ++rows) {
        if ((options().quick || kIsHalf<T>) && rows < kernel && rng().coin()) continue;
        const Problem t = make_problem<T>(
            {{kernel, kernel, first_row, rows, 0, kernel, kMostColumns, channels}, stride, 1});
        const std::int32_t activation = kActivations[turn++ % kActivations.size()];
        for (const auto& variant : variants(entry)) {
          check_problem<T>(t, variant.isa, activation, columns, variant.kernel);
        }
      }
    }
  }
  // Every activation on one awkward width.
  const Problem t =
      make_problem<T>({{kernel, kernel, 0, kernel, 0, kernel, kMostColumns, 25}, stride, 1});
  for (std::int32_t activation : kActivations) {
    for (const auto& variant : variants(entry)) {
      check_problem<T>(t, variant.isa, activation, columns, variant.kernel);
    }
  }
}

/// Rows that begin and end with padding of every width, which the kernel may leave out.
template <typename T>
void test_padding(void (*TableFor<T>::*entry)(const DepthwiseArgsOf<T>&), std::int64_t kernel,
                  std::int64_t stride) {
  for (std::int64_t columns : selected({1, 4, 7, 9, 14, 20, 22, 28, 42}, 4, kIsHalf<T>)) {
    for (std::int64_t channels : {8, 16, 24, 40, 56}) {
      for (std::int64_t left = 0; left <= kernel / 2 + 1; ++left) {
        for (std::int64_t right = 0; right <= kernel / 2 + 1; ++right) {
          if ((columns - 1) * stride + kernel < left + right) continue;
          const std::int64_t first_row = rng().integer(0, kernel - 1);
          const Problem t = make_problem<T>(
              {{kernel, kernel, first_row, kernel - first_row, 0, kernel, columns, channels},
               stride,
               1},
              left, right);
          const std::int32_t activation = rng().pick(kActivations);
          for (const auto& variant : variants(entry)) {
            check_problem<T>(t, variant.isa, activation, {columns / 2, columns}, variant.kernel);
          }
        }
      }
    }
  }
}

/// NaN, infinities and denormals in one column among ordinary ones, weights of one.
template <typename T>
void test_special_values(void (*TableFor<T>::*entry)(const DepthwiseArgsOf<T>&),
                         std::int64_t kernel, std::int64_t stride) {
  for (float special : {NAN, INFINITY, -INFINITY, -0.0f, 1e-40f, -1e-40f, 1e30f}) {
    for (std::int64_t channels : {1, 7, 16, 25}) {
      Problem t = make_problem<T>(
          {{kernel, kernel, 0, kernel, 0, kernel, kMostColumns, channels}, stride, 1});
      t.integers = false;
      for (auto& row : t.rows) std::fill(row.begin(), row.end(), 0.0f);
      std::fill(t.w.begin(), t.w.end(), 1.0f);
      std::fill(t.bias.begin(), t.bias.end(), 0.0f);
      t.packed_w = pack_depthwise(t.w, channels, kernel * kernel);
      t.packed_bias = pad_depthwise_bias(t.bias);
      const std::int64_t column = rng().integer(0, t.window.reach(kMostColumns) - 1);
      for (std::int64_t c = 0; c < channels; ++c) {
        t.rows[1][static_cast<std::size_t>(column * channels + c)] = rounded<T>({special})[0];
      }
      t.z = reference::depthwise(
          t.window.shape,
          [&](std::int64_t u, std::int64_t j, std::int64_t v, std::int64_t c) {
            return t.rows[static_cast<std::size_t>(u)]
                         [static_cast<std::size_t>((j * stride + v) * channels + c)];
          },
          t.w.data(), t.bias.data());
      for (std::int32_t activation : kActivations) {
        for (const auto& variant : variants(entry)) {
          check_problem<T>(t, variant.isa, activation, {1, 9}, variant.kernel);
        }
      }
    }
  }
}

template <typename T>
void test_any(void (*TableFor<T>::*entry)(const DepthwiseAnyArgsOf<T>&)) {
  const reference::PrecisionScope scope(kPrecision<T>);
  const int problems = options().quick || kIsHalf<T> ? 150 : 1500;
  for (int i = 0; i < problems; ++i) {
    const std::int64_t kernel_h = rng().integer(1, 7), kernel_w = rng().integer(1, 7);
    const std::int64_t first_row = rng().integer(0, kernel_h),
                       first_tap = rng().integer(0, kernel_w);
    const Window1d window{
        {kernel_h, kernel_w, first_row, rng().integer(0, kernel_h - first_row), first_tap,
         rng().integer(0, kernel_w - first_tap), rng().integer(1, 20), rng().pick(kChannels)},
        rng().integer(1, 3),
        rng().integer(1, 3)};
    const Problem t = make_problem<T>(window);
    const std::int32_t activation = rng().pick(kActivations);
    const Sizes columns = {0, 1, rng().integer(0, window.shape.columns)};
    for (const auto& variant : variants(entry)) {
      check_problem<T>(t, variant.isa, activation, columns, [&](const DepthwiseArgsOf<T>& common) {
        const DepthwiseShape& s = window.shape;
        variant.kernel(
            {common, s.kernel_h, s.kernel_w, window.stride, window.dilation, s.first_tap, s.taps});
      });
    }
  }
}

template <typename T>
void test_all(void (*TableFor<T>::*entry)(const DepthwiseArgsOf<T>&), std::int64_t kernel,
              std::int64_t stride) {
  const reference::PrecisionScope scope(kPrecision<T>);
  test_tuned<T>(entry, kernel, stride);
  test_padding<T>(entry, kernel, stride);
  test_special_values<T>(entry, kernel, stride);
}

}  // namespace

void test_cases_of_depthwise_k3s1_f32() { test_all<float>(&KernelTable::depthwise_k3s1_f32, 3, 1); }
void test_cases_of_depthwise_k3s1_f16() {
  test_all<Half>(&HalfKernelTable::depthwise_k3s1_f16, 3, 1);
}
void test_cases_of_depthwise_k3s2_f32() { test_all<float>(&KernelTable::depthwise_k3s2_f32, 3, 2); }
void test_cases_of_depthwise_k3s2_f16() {
  test_all<Half>(&HalfKernelTable::depthwise_k3s2_f16, 3, 2);
}
void test_cases_of_depthwise_k5s1_f32() { test_all<float>(&KernelTable::depthwise_k5s1_f32, 5, 1); }
void test_cases_of_depthwise_k5s1_f16() {
  test_all<Half>(&HalfKernelTable::depthwise_k5s1_f16, 5, 1);
}
void test_cases_of_depthwise_k5s2_f32() { test_all<float>(&KernelTable::depthwise_k5s2_f32, 5, 2); }
void test_cases_of_depthwise_k5s2_f16() {
  test_all<Half>(&HalfKernelTable::depthwise_k5s2_f16, 5, 2);
}
void test_cases_of_depthwise_any_f32() { test_any<float>(&KernelTable::depthwise_any_f32); }
void test_cases_of_depthwise_any_f16() { test_any<Half>(&HalfKernelTable::depthwise_any_f16); }

}  // namespace weebill::testing
