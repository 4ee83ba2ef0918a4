// What both bindings share: plain lists of numbers become the structures of the core.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/weebill.h"

namespace weebill::bindings {

/// Sizes and strides (in elements) are those of n, c, h, w. A stride along a size of 0 or 1 is
/// never used to step, and callers leave anything there: it gets the value of dense NHWC, so that
/// the core may recognise that layout by comparing strides.
inline TensorView make_view(const float* data, const std::int64_t* sizes,
                            const std::int64_t* strides) {
  TensorView view;
  view.data = data;
  view.n = sizes[0];
  view.c = sizes[1];
  view.h = sizes[2];
  view.w = sizes[3];
  view.stride_n = view.n > 1 ? strides[0] : view.h * view.w * view.c;
  view.stride_c = view.c > 1 ? strides[1] : 1;
  view.stride_h = view.h > 1 ? strides[2] : view.w * view.c;
  view.stride_w = view.w > 1 ? strides[3] : view.c;
  return view;
}

/// "(1, 2, 3)".
inline std::string text_of(const std::vector<std::int64_t>& values) {
  std::string text = "(";
  for (std::size_t i = 0; i < values.size(); ++i) text += concat(i ? ", " : "", values[i]);
  return text + ")";
}

/// The window of a convolution from the lists that both bindings take: stride and dilation (h, w),
/// padding (top, left, bottom, right). `same` makes the padding a result of the input's size. Here
/// only the form is checked; the core checks the values.
inline Window make_window(const std::string& op, const std::vector<std::int64_t>& stride,
                          const std::vector<std::int64_t>& padding,
                          const std::vector<std::int64_t>& dilation, bool same) {
  const auto checked = [&op](const char* name, const std::vector<std::int64_t>& values,
                             std::size_t count, const char* what) {
    bool narrow = true;
    for (const std::int64_t value : values) {
      narrow = narrow && value == static_cast<std::int32_t>(value);
    }
    if (values.size() == count && narrow) return;
    throw ValueError(concat(op, ": ", name, " must be ", what, ", got ", text_of(values)));
  };
  checked("stride", stride, 2, "two 32-bit integers (h, w)");
  checked("dilation", dilation, 2, "two 32-bit integers (h, w)");
  if (!same) checked("padding", padding, 4, "four 32-bit integers (top, left, bottom, right)");
  Window window;
  window.stride_h = static_cast<std::int32_t>(stride[0]);
  window.stride_w = static_cast<std::int32_t>(stride[1]);
  window.dilation_h = static_cast<std::int32_t>(dilation[0]);
  window.dilation_w = static_cast<std::int32_t>(dilation[1]);
  window.same = same ? 1 : 0;
  if (!same) {
    window.pad_top = static_cast<std::int32_t>(padding[0]);
    window.pad_left = static_cast<std::int32_t>(padding[1]);
    window.pad_bottom = static_cast<std::int32_t>(padding[2]);
    window.pad_right = static_cast<std::int32_t>(padding[3]);
  }
  return window;
}

/// Padding [-1] asks for TensorFlow's SAME. (An empty list would say it better, but compiled
/// packages of torch turn one into None.)
inline Window window_of(const std::string& op, const std::vector<std::int64_t>& stride,
                        const std::vector<std::int64_t>& padding,
                        const std::vector<std::int64_t>& dilation) {
  const bool same = padding.size() == 1 && padding[0] == -1;
  return make_window(op, stride, padding, dilation, same);
}

/// "none", "add" or "concat": what a unit of ShuffleNetV1 does with its input.
inline ShuffleUnitV1Spec::Shortcut parse_shortcut(const std::string& op, const std::string& name) {
  using Shortcut = ShuffleUnitV1Spec::Shortcut;
  if (name == "none") return Shortcut::kNone;
  if (name == "add") return Shortcut::kAdd;
  if (name == "concat") return Shortcut::kConcat;
  throw ValueError(concat(op, ": shortcut must be one of none, add, concat, got '", name, "'"));
}

}  // namespace weebill::bindings
