#include "record_cases.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "kernel_cases.h"

namespace weebill::testing {
namespace {

int hook_threads = 1;

using Leader = LentTeam::Leader;

void with_nobody(int, Leader leader, void* context) { leader(context, nullptr); }

void with_new_threads(int members, Leader leader, void* context) {
  LentTeam team(members, leader, context);
  std::vector<std::thread> threads;
  for (int i = 1; i < members; ++i) threads.emplace_back([&team, i] { team.member(i); });
  team.member(0);
  for (std::thread& thread : threads) thread.join();
  team.rethrow();
}

void with_absent_threads(int members, Leader leader, void* context) {
  LentTeam team(members, leader, context);
  for (int i = 0; i < members; ++i) team.member(i);
  team.rethrow();
}

}  // namespace

ParallelMode::ParallelMode(int threads, WithTeam with_team) {
  hook_threads = threads;
  set_parallel_hook({with_team, [] { return hook_threads; }});
}

ParallelMode::ParallelMode(int threads)
    : ParallelMode(threads, threads == 1 ? with_nobody : with_new_threads) {}

ParallelMode ParallelMode::alone(int threads) { return {threads, with_absent_threads}; }

ParallelMode::~ParallelMode() {
  hook_threads = 1;
  set_parallel_hook({with_nobody, [] { return 1; }});
}

const std::vector<Layout> kLayouts = {Layout::kNhwc,     Layout::kNchw,       Layout::kNhwcSlice,
                                      Layout::kNchwCrop, Layout::kTransposed, Layout::kSparse,
                                      Layout::kBroadcast};

const char* layout_name(Layout layout) {
  static const char* const names[] = {"nhwc",       "nchw",   "nhwc_slice", "nchw_crop",
                                      "transposed", "sparse", "broadcast"};
  return names[static_cast<int>(layout)];
}

namespace {

/// Up to `largest`; in float16, ones that it can hold.
std::vector<float> any_numbers(std::int64_t count, float largest) {
  const std::vector<float> values = rng().reals(count, -largest, largest);
  return in_float16() ? rounded<Half>(values) : values;
}

}  // namespace

Input make_input(const Shape& s, Layout layout, bool integers) {
  Input input{};
  input.layout = layout;
  TensorView& v = input.view;
  v.n = s.n;
  v.c = s.c;
  v.h = s.h;
  v.w = s.w;
  auto set_strides = [&v](std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) {
    v.stride_n = n;
    v.stride_c = c;
    v.stride_h = h;
    v.stride_w = w;
  };
  switch (layout) {
    case Layout::kNhwc:
      set_strides(s.h * s.w * s.c, 1, s.w * s.c, s.c);
      break;
    case Layout::kNchw:
      set_strides(s.c * s.h * s.w, s.h * s.w, s.w, 1);
      break;
    case Layout::kNhwcSlice:
      set_strides(s.h * s.w * (s.c + 5), 1, s.w * (s.c + 5), s.c + 5);
      break;
    case Layout::kNchwCrop:
      set_strides(s.c * (s.h + 2) * (s.w + 3), (s.h + 2) * (s.w + 3), s.w + 3, 1);
      break;
    case Layout::kTransposed:
      set_strides(s.c * s.h * s.w, s.h * s.w, 1, s.h);
      break;
    case Layout::kSparse:
      set_strides(2 * s.h * s.w * 2 * s.c, 2, s.w * 2 * s.c, 2 * s.c);
      break;
    case Layout::kBroadcast:
      set_strides(0, 1, 0, s.c);
      break;
  }
  const bool empty = s.n * s.c * s.h * s.w == 0;
  const std::int64_t last = empty ? -1
                                  : (s.n - 1) * v.stride_n + (s.c - 1) * v.stride_c +
                                        (s.h - 1) * v.stride_h + (s.w - 1) * v.stride_w;
  input.storage =
      integers && !in_float16() ? rng().integers(last + 1, -3, 3) : any_numbers(last + 1, 1);
  std::vector<bool> reached(input.storage.size(), false);
  for (std::int64_t n = 0; n < s.n; ++n) {
    for (std::int64_t c = 0; c < s.c; ++c) {
      for (std::int64_t h = 0; h < s.h; ++h) {
        for (std::int64_t w = 0; w < s.w; ++w) {
          reached[static_cast<std::size_t>(n * v.stride_n + c * v.stride_c + h * v.stride_h +
                                           w * v.stride_w)] = true;
        }
      }
    }
  }
  for (std::size_t i = 0; i < reached.size(); ++i) {
    if (!reached[i]) std::memcpy(&input.storage[i], &kPoison, sizeof kPoison);
  }
  return input;
}

reference::Tensor to_tensor(const Input& input) {
  const TensorView& v = input.view;
  reference::Tensor tensor({v.n, v.c, v.h, v.w});
  for (std::int64_t n = 0; n < v.n; ++n) {
    for (std::int64_t c = 0; c < v.c; ++c) {
      for (std::int64_t h = 0; h < v.h; ++h) {
        for (std::int64_t w = 0; w < v.w; ++w) {
          tensor.at(n, c, h, w).value = input.storage[static_cast<std::size_t>(
              n * v.stride_n + c * v.stride_c + h * v.stride_h + w * v.stride_w)];
        }
      }
    }
  }
  return tensor;
}

Weight Weights::make(const char* name, const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (std::int64_t size : shape) count *= size;
  if (in_float16()) {
    // So small that several layers do not leave the range.
    const auto inputs = static_cast<float>(count / shape[0]);
    values_.push_back(any_numbers(count, 2 / std::sqrt(inputs)));
  } else {
    values_.push_back(integers_ ? rng().integers(count, -2, 2) : rng().reals(count));
  }
  buffers_.push_back(std::make_unique<Guarded<float>>(name, values_.back(), any_flush()));
  return {buffers_.back()->data(), shape};
}

Weight Weights::maybe_bias(const char* name, std::int64_t channels) {
  return rng().integer(0, 2) == 0 ? Weight{} : make(name, {channels});
}

bool Weights::unchanged() const {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (!buffers_[i]->unchanged(values_[i])) return false;
  }
  return true;
}

Activation any_activation(bool keep_integers) {
  std::int32_t activation;
  do {
    activation = rng().pick(kActivations);
  } while (keep_integers && !keeps_integers(activation));
  return static_cast<Activation>(activation);
}

std::string shape_text(const Shape& s) {
  return format("(%lld, %lld, %lld, %lld)", static_cast<long long>(s.n),
                static_cast<long long>(s.c), static_cast<long long>(s.h),
                static_cast<long long>(s.w));
}

std::vector<float> run_guarded(const Bytes& records, const Input& input, const Shape& output,
                               Flush flush) {
  const Guarded<std::byte> blob("records", records, flush, 64);
  const Guarded<float> x("x", input.storage, flush);
  const Guarded<float> y("y", static_cast<std::size_t>(output.n * output.c * output.h * output.w),
                         flush);
  TensorView view = input.view;
  view.data = x.data();
  run("test", view, {blob.data(), blob.size()}, y.data());
  WEEBILL_EXPECT(blob.unchanged(records));
  WEEBILL_EXPECT(x.unchanged(input.storage));
  WEEBILL_EXPECT(y.intact());
  return {y.data(), y.data() + y.size()};
}

namespace {

Bytes in_tested_type(const Bytes& records) {
  if (!in_float16()) return records;
  const Guarded<std::byte> blob("records", records, Flush::kEnd, 64);
  Bytes halves;
  to_float16({blob.data(), blob.size()}, [&halves](std::size_t bytes) {
    halves.resize(bytes);
    return halves.data();
  });
  WEEBILL_EXPECT(blob.unchanged(records));
  return halves;
}

}  // namespace

void run_records(const std::string& what, const Bytes& packed_records, const Input& input,
                 const Expected& expected) {
  const Shape x_shape{input.view.n, input.view.c, input.view.h, input.view.w};
  const Shape& want = expected.tensor.shape;
  const std::string on = what + " on " + shape_text(x_shape) + " " + layout_name(input.layout);
  set_case("%s: output_shape", on.c_str());
  const Bytes records = in_tested_type(packed_records);
  {
    const Guarded<std::byte> blob("records", records, Flush::kEnd, 64);
    const Packed packed{blob.data(), blob.size()};
    WEEBILL_EXPECT(records.size() % 64 == 0);
    const Shape got = output_shape("test", x_shape, packed);
    if (got.n != want.n || got.c != want.c || got.h != want.h || got.w != want.w) {
      WEEBILL_FAIL("expected shape %s, got %s", shape_text(want).c_str(), shape_text(got).c_str());
      return;
    }
    WEEBILL_EXPECT(!explain(x_shape, packed, 2).empty());
    WEEBILL_EXPECT(multiply_adds(x_shape, packed) >= 0);
  }
  std::vector<reference::Bounded> bounds = expected.tensor.data;
  if (expected.exact && !in_float16()) {
    for (reference::Bounded& value : bounds) value.error = 0;
  }
  const std::string isa_before = isa();
  const std::vector<std::string> tested = tested_isas();
  for (const std::string& name : tested) {
    // The same drivers and the same kernel sources; the kernels' own tests keep it.
    if (options().quick && name == "scalar" && tested.size() > 1) continue;
    if (in_float16() && half_kernels_of(name) == nullptr) continue;
    set_isa(name);
    std::vector<float> first;
    auto once = [&](const char* mode, Flush flush) {
      set_case("%s, isa %s, policy %d, %s, %s", on.c_str(), name.c_str(),
               static_cast<int>(fusion_policy()), mode, flush_name(flush));
      const std::vector<float> got = run_guarded(records, input, want, flush);
      if (first.empty()) {
        first = got;
        expect_bounded(got, bounds, want.c);
      } else {
        expect_same_bits(got, first, want.c);
      }
    };
    for (FusionPolicy policy :
         {FusionPolicy::kAuto, FusionPolicy::kRows, FusionPolicy::kChannels}) {
      set_fusion_policy(policy);
      once("serial", Flush::kEnd);
      once("serial", Flush::kStart);
      const int threads = static_cast<int>(rng().pick(Sizes{2, 3, 8}));
      {
        const ParallelMode mode(threads);
        once(format("%d threads", threads).c_str(), any_flush());
      }
      const ParallelMode mode = ParallelMode::alone(threads);
      once(format("%d threads that do not come", threads).c_str(), any_flush());
    }
    set_fusion_policy(FusionPolicy::kAuto);
  }
  set_isa(isa_before);
}

void expect_refused(const std::string& what, const Bytes& records, const Input& input) {
  const Shape x_shape{input.view.n, input.view.c, input.view.h, input.view.w};
  set_case("%s on %s", what.c_str(), shape_text(x_shape).c_str());
  const Guarded<std::byte> blob("records", records, Flush::kEnd, 64);
  const Packed packed{blob.data(), blob.size()};
  WEEBILL_EXPECT_THROW(ValueError, "test", output_shape("test", x_shape, packed));
  const Guarded<float> x("x", input.storage, Flush::kEnd);
  const Guarded<float> y("y", 0, Flush::kEnd);
  TensorView view = input.view;
  view.data = x.data();
  WEEBILL_EXPECT_THROW(ValueError, "test", run("test", view, packed, y.data()));
}

AnyWindow any_window() {
  AnyWindow any{};
  Window& w = any.window;
  any.kernel_h = rng().pick(Sizes{1, 2, 3, 3, 3, 5, 5, 7});
  any.kernel_w = rng().integer(0, 3) > 0 ? any.kernel_h : rng().pick(Sizes{1, 2, 3, 5, 7});
  w.kernel_h = static_cast<std::int32_t>(any.kernel_h);
  w.kernel_w = static_cast<std::int32_t>(any.kernel_w);
  auto number = [](std::int64_t low, std::int64_t high) {
    return static_cast<std::int32_t>(rng().integer(low, high));
  };
  w.stride_h = number(1, 2);
  w.stride_w = rng().integer(0, 2) > 0 ? w.stride_h : number(1, 3);
  w.dilation_h = rng().integer(0, 3) > 0 ? 1 : number(1, 3);
  w.dilation_w = rng().integer(0, 3) > 0 ? w.dilation_h : number(1, 3);
  switch (rng().integer(0, 4)) {
    case 0:  // as wide as networks have it
      w.pad_top = w.pad_bottom = w.dilation_h * (w.kernel_h - 1) / 2;
      w.pad_left = w.pad_right = w.dilation_w * (w.kernel_w - 1) / 2;
      break;
    case 1:  // at the end only, as TensorFlow's at stride 2
      w.pad_bottom = w.pad_right = 1;
      break;
    case 2:
      w.pad_top = number(0, 4);
      w.pad_left = number(0, 4);
      w.pad_bottom = number(0, 4);
      w.pad_right = number(0, 4);
      break;
    case 3:
      w.same = 1;
      w.pad_top = number(0, 4);  // to be ignored
      break;
    default:
      break;
  }
  return any;
}

std::int64_t any_channels() { return rng().pick(Sizes{1, 2, 3, 7, 8, 16, 17, 22, 24, 33, 40, 50}); }

Shape any_image(std::int64_t channels) {
  static const Sizes sizes = {1, 1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 17};
  return {rng().pick(Sizes{1, 1, 1, 2, 3, 0}), channels, rng().pick(sizes), rng().pick(sizes)};
}

Layout any_layout_of_input() {
  return rng().integer(0, 2) == 0 ? Layout::kNhwc : rng().pick(kLayouts);
}

std::string window_text(const Window& w, std::int64_t kernel_h, std::int64_t kernel_w) {
  return format("kernel %lldx%lld stride %dx%d dilation %dx%d pad %d,%d,%d,%d same %d",
                static_cast<long long>(kernel_h), static_cast<long long>(kernel_w), w.stride_h,
                w.stride_w, w.dilation_h, w.dilation_w, w.pad_top, w.pad_left, w.pad_bottom,
                w.pad_right, w.same);
}

}  // namespace weebill::testing
