// Convolutions as records: dense, grouped, depthwise, pointwise, on every layout of input.
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

struct Case {
  Shape x;
  std::int64_t c_out, groups;
  AnyWindow window;
};

Window window_of(std::int32_t kernel, std::int32_t stride, std::int32_t pad,
                 std::int32_t dilation = 1) {
  Window w;
  w.kernel_h = w.kernel_w = kernel;
  w.stride_h = w.stride_w = stride;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = pad;
  w.dilation_h = w.dilation_w = dilation;
  return w;
}

void check_case(const Case& c, Layout layout, bool integers) {
  Weights weights(integers);
  Conv2dSpec spec;
  spec.op = "conv_test";
  spec.weight =
      weights.make("weight", {c.c_out, c.x.c / c.groups, c.window.kernel_h, c.window.kernel_w});
  spec.bias = weights.maybe_bias("bias", c.c_out);
  spec.window = c.window.window;
  spec.groups = c.groups;
  spec.activation = any_activation(integers);
  const std::string what = format(
      "conv2d %lld->%lld groups %lld activation %d bias %d %s", static_cast<long long>(c.x.c),
      static_cast<long long>(c.c_out), static_cast<long long>(c.groups),
      static_cast<int>(spec.activation), static_cast<bool>(spec.bias),
      window_text(spec.window, c.window.kernel_h, c.window.kernel_w).c_str());
  set_case("%s: pack", what.c_str());
  const Bytes record = pack(spec);
  WEEBILL_EXPECT(weights.unchanged());
  const Input input = make_input(c.x, layout, integers);
  const reference::Geometry g =
      reference::geometry(spec.window, c.window.kernel_h, c.window.kernel_w, c.x);
  if (g.vertical.size <= 0 || g.horizontal.size <= 0) {
    expect_refused(what, record, input);
    return;
  }
  run_records(what, record, input, {reference::conv2d(spec, to_tensor(input)), integers});

  // Every output sees the whole window; padding counts, as everybody counts it.
  const std::int64_t expected = c.x.n * c.c_out * g.vertical.size * g.horizontal.size *
                                c.window.kernel_h * c.window.kernel_w * (c.x.c / c.groups);
  const Guarded<std::byte> blob("records", record, Flush::kEnd, 64);
  WEEBILL_EXPECT(multiply_adds(c.x, {blob.data(), blob.size()}) == expected);
}

WEEBILL_RECORD_TEST(conv2d_random) {
  const int cases = few_cases() ? 60 : 600;
  for (int i = 0; i < cases; ++i) {
    Case c{};
    const std::int64_t channels = any_channels();
    switch (rng().integer(0, 5)) {
      case 0:  // depthwise
        c.c_out = c.groups = channels;
        c.window = any_window();
        break;
      case 1:  // depthwise with a multiplier
        c.groups = channels;
        c.c_out = channels * rng().integer(2, 3);
        c.window = any_window();
        break;
      case 2:  // grouped
        c.groups = channels % 2 == 0 ? 2 : channels;
        c.c_out = c.groups * rng().integer(1, 20);
        c.window = any_window();
        break;
      case 3:  // pointwise, or a stride over pixels
        c.groups = 1;
        c.c_out = any_channels();
        c.window = {window_of(1, static_cast<std::int32_t>(rng().integer(1, 2)), 0), 1, 1};
        break;
      default:
        c.groups = 1;
        c.c_out = any_channels();
        c.window = any_window();
    }
    c.x = any_image(channels);
    check_case(c, any_layout_of_input(), rng().coin());
  }
}

/// Enough work for several threads to be used.
WEEBILL_RECORD_TEST(conv2d_on_threads) {
  const int cases = few_cases() ? 3 : 30;
  for (int i = 0; i < cases; ++i) {
    const std::int64_t channels = rng().pick(Sizes{16, 24, 34});
    const std::int64_t groups = rng().pick(Sizes{1, 1, 2, channels});
    const Shape x{rng().integer(1, 2), channels, rng().integer(15, 30), rng().integer(15, 30)};
    check_case({x, groups * rng().integer(1, 60 / groups + 1), groups, any_window()},
               any_layout_of_input(), rng().coin());
  }
}

/// Both the dense path and the copying one, on each layout.
WEEBILL_TEST(conv2d_every_layout) {
  for (Layout layout : kLayouts) {
    for (bool integers : {true, false}) {
      check_case({{2, 3, 15, 18}, 16, 1, {window_of(3, 2, 1), 3, 3}}, layout, integers);
      check_case({{2, 17, 6, 5}, 24, 1, {window_of(1, 1, 0), 1, 1}}, layout, integers);
      check_case({{2, 22, 9, 8}, 22, 22, {window_of(3, 1, 1), 3, 3}}, layout, integers);
      check_case({{2, 8, 7, 9}, 12, 4, {window_of(5, 1, 2), 5, 5}}, layout, integers);
    }
  }
}

/// The stems, heads and linear layers of real networks.
WEEBILL_TEST(conv2d_of_networks) {
  const std::int64_t side = options().quick ? 20 : 64;
  check_case({{1, 3, side, side}, 16, 1, {window_of(3, 2, 1), 3, 3}}, Layout::kNchw, false);
  check_case({{1, 3, side, side}, 32, 1, {window_of(3, 2, 1), 3, 3}}, Layout::kNhwc, true);
  check_case({{1, 3, side + 1, side}, 24, 1, {window_of(3, 2, 0), 3, 3}}, Layout::kNchw, false);
  check_case({{1, 160, 7, 7}, 480, 1, {window_of(1, 1, 0), 1, 1}}, Layout::kNhwc, false);
  check_case({{1, 576, 1, 1}, 1024, 1, {window_of(1, 1, 0), 1, 1}}, Layout::kNhwc, false);
  check_case({{3, 480, 1, 1}, 1000, 1, {window_of(1, 1, 0), 1, 1}}, Layout::kNchw, true);
  check_case({{1, 72, 28, 28}, 72, 72, {window_of(5, 2, 2), 5, 5}}, Layout::kNhwc, false);
  check_case({{1, 88, 14, 14}, 88, 88, {window_of(5, 1, 4, 2), 5, 5}}, Layout::kNhwc, false);
}

/// A NaN or an infinity goes where the window sees it and nowhere else; zeros outside stay zeros.
WEEBILL_TEST(conv2d_special_values) {
  for (float special : {NAN, INFINITY, -INFINITY, 1e-40f}) {
    for (std::int64_t groups : {1, 17}) {
      Weights weights(false);
      Conv2dSpec spec;
      spec.weight = weights.make("weight", {17, 17 / groups, 3, 3});
      spec.window = window_of(3, 1, 1);
      spec.groups = groups;
      const Bytes record = pack(spec);
      for (Layout layout : {Layout::kNhwc, Layout::kNchw}) {
        Input input = make_input({1, 17, 9, 10}, layout, true);
        const TensorView& v = input.view;
        input.storage[static_cast<std::size_t>(4 * v.stride_c + 8 * v.stride_h)] = special;
        run_records(format("special value %g groups %lld", static_cast<double>(special),
                           static_cast<long long>(groups)),
                    record, input, {reference::conv2d(spec, to_tensor(input)), false});
      }
    }
  }
}

}  // namespace
}  // namespace weebill::testing
