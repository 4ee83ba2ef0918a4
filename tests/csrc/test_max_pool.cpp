// Records of max pooling.
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

void check_pool(const Window& window, const Shape& x, Layout layout) {
  MaxPoolSpec spec;
  spec.channels = x.c;
  spec.window = window;
  const std::string what = "max_pool " + window_text(window, window.kernel_h, window.kernel_w);
  set_case("%s: pack", what.c_str());
  const Bytes record = pack(spec);
  const Input input = make_input(x, layout, false);
  const reference::Geometry g = reference::geometry(window, window.kernel_h, window.kernel_w, x);
  if (g.vertical.size <= 0 || g.horizontal.size <= 0) {
    expect_refused(what, record, input);
    return;
  }
  run_records(what, record, input, {reference::max_pool(window, to_tensor(input)), true});
}

WEEBILL_RECORD_TEST(max_pool_random) {
  for (int i = 0; i < (few_cases() ? 30 : 200); ++i) {
    Window w = any_window().window;
    w.pad_top = std::min(w.pad_top, w.kernel_h / 2);
    w.pad_bottom = std::min(w.pad_bottom, w.kernel_h / 2);
    w.pad_left = std::min(w.pad_left, w.kernel_w / 2);
    w.pad_right = std::min(w.pad_right, w.kernel_w / 2);
    check_pool(w, any_image(any_channels()), any_layout_of_input());
  }
}

/// The stem of ShuffleNetV2, on sizes even and odd, and on threads.
WEEBILL_TEST(max_pool_of_stems) {
  Window w;
  w.kernel_h = w.kernel_w = 3;
  w.stride_h = w.stride_w = 2;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = 1;
  for (std::int64_t side : {1, 2, 7, 56, 57}) check_pool(w, {1, 24, side, side}, Layout::kNhwc);
}

WEEBILL_TEST(max_pool_refuses) {
  MaxPoolSpec spec;
  spec.channels = 0;
  WEEBILL_EXPECT_THROW(ValueError, "max_pool2d", pack(spec));
  spec.channels = 8;
  spec.window.kernel_h = spec.window.kernel_w = 3;
  spec.window.pad_top = 2;
  WEEBILL_EXPECT_THROW(ValueError, "max_pool2d", pack(spec));
}

}  // namespace
}  // namespace weebill::testing
