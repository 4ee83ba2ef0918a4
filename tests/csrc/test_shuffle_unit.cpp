// Channel shuffle and the units of ShuffleNetV2 and V1: alone, and in runs that carry the shuffle.
#include <algorithm>
#include <cstring>

#include "core/weebill.h"
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

Window centred(std::int32_t kernel, std::int32_t stride) {
  Window w;
  w.kernel_h = w.kernel_w = kernel;
  w.stride_h = w.stride_w = stride;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = kernel / 2;
  return w;
}

SeparableSpec branch(Weights& weights, std::int64_t c_in, std::int64_t c_mid, std::int64_t c_out,
                     bool expand, const Window& window) {
  SeparableSpec spec;
  if (expand) {
    spec.expand_weight = weights.make("expand_weight", {c_mid, c_in, 1, 1});
    spec.expand_bias = weights.maybe_bias("expand_bias", c_mid);
    spec.expand_activation = Activation::kRelu6;
  }
  spec.depthwise_weight =
      weights.make("depthwise_weight", {c_mid, 1, window.kernel_h, window.kernel_w});
  spec.depthwise_bias = weights.maybe_bias("depthwise_bias", c_mid);
  spec.project_weight = weights.make("project_weight", {c_out, c_mid, 1, 1});
  spec.project_bias = weights.maybe_bias("project_bias", c_out);
  spec.project_activation = weights.integers() ? Activation::kRelu6 : any_activation(false);
  spec.window = window;
  return spec;
}

/// A list of units with the oracle's answer so far.
struct Stage {
  explicit Stage(const Input& input, bool integers) : weights(integers), tensor(to_tensor(input)) {}

  void down(std::int64_t c_out, std::int32_t kernel, std::int32_t stride) {
    const std::int64_t c_in = tensor.shape.c, c_mid = rng().pick(Sizes{c_out / 2, 3, 17});
    ShuffleUnitSpec spec;
    spec.branch = branch(weights, c_in, c_mid, c_out / 2, true, centred(kernel, stride));
    spec.shortcut = branch(weights, c_in, c_in, c_out / 2, false, centred(kernel, stride));
    append("down", spec);
  }

  void basic(std::int32_t kernel) {
    const std::int64_t half = tensor.shape.c / 2;
    const std::int64_t c_mid = rng().coin() ? half : rng().integer(1, 20);
    ShuffleUnitSpec spec;
    const bool expand = c_mid != half || rng().integer(0, 3) > 0;
    // Without an expansion nothing can be read through a table: the run ends there.
    spec.branch = branch(weights, half, c_mid, half, expand, centred(kernel, 1));
    append("basic", spec);
  }

  void append(const char* name, const ShuffleUnitSpec& spec) {
    text += (text.empty() ? "" : ", ") + std::string(name);
    set_case("%s: pack", text.c_str());
    const Bytes record = pack(spec);
    records.insert(records.end(), record.begin(), record.end());
    tensor = reference::shuffle_unit(spec, tensor);
    ends.push_back(records.size());
  }

  void check(const Input& input, bool exact) const {
    run_records(format("c %lld: %s", static_cast<long long>(tensor.shape.c), text.c_str()), records,
                input, {tensor, exact});
  }

  Weights weights;
  reference::Tensor tensor;
  Bytes records;
  std::vector<std::size_t> ends;
  std::string text;
};

WEEBILL_RECORD_TEST(shuffle_unit_random) {
  for (int i = 0; i < (few_cases() ? 20 : 150); ++i) {
    const bool integers = rng().coin();
    const bool first_down = rng().coin();
    const std::int64_t channels =
        first_down ? any_channels() : 2 * rng().pick(Sizes{1, 2, 3, 5, 8, 11, 17, 24});
    const Input input = make_input(any_image(channels), any_layout_of_input(), integers);
    Stage stage(input, integers);
    const auto kernel = static_cast<std::int32_t>(rng().pick(Sizes{1, 3, 3, 5}));
    if (first_down) {
      const std::int64_t c_out = 2 * rng().pick(Sizes{1, 2, 3, 5, 8, 11, 17, 24});
      stage.down(c_out, kernel, static_cast<std::int32_t>(rng().integer(1, 2)));
    } else {
      stage.basic(kernel);
    }
    // Of whole numbers one unit; more would leave the range in which they are exact.
    const std::int64_t more = integers ? 0 : rng().integer(0, 4);
    for (std::int64_t k = 0; k < more; ++k) {
      if (rng().integer(0, 4) == 0) {
        stage.down(2 * rng().integer(1, 12), 3, 2);
      } else {
        stage.basic(3);
      }
    }
    stage.check(input, integers);
  }
}

/// The stages of ShuffleNetV2, and a run so long that tensors are used again.
WEEBILL_TEST(shuffle_unit_stages) {
  const struct {
    std::int64_t c_in, c_out, side;
    int basics;
  } rows[] = {{24, 48, 28, 3}, {24, 116, 28, 3}, {116, 232, 14, 7}, {96, 192, 7, 3}, {3, 6, 5, 20}};
  for (const auto& row : rows) {
    const std::int64_t side = options().quick ? row.side / 2 + 1 : row.side;
    const Input input = make_input({1, row.c_in, side, side}, Layout::kNhwc, false);
    Stage stage(input, false);
    stage.down(row.c_out, 3, 2);
    for (int i = 0; i < row.basics; ++i) stage.basic(3);
    stage.check(input, false);
  }
}

/// Units one at a time give the same bits as in one run, whatever their place.
WEEBILL_TEST(shuffle_unit_alone_or_together) {
  const Input input = make_input({1, 24, 13, 18}, Layout::kNhwc, false);
  Stage stage(input, false);
  stage.down(58, 3, 2);
  for (int i = 0; i < 4; ++i) stage.basic(3);
  std::vector<float> value = input.storage;
  Shape shape{1, 24, 13, 18};
  std::size_t begin = 0;
  for (std::size_t end : stage.ends) {
    set_case("unit that ends at %zu", end);
    const Bytes unit(stage.records.begin() + static_cast<std::ptrdiff_t>(begin),
                     stage.records.begin() + static_cast<std::ptrdiff_t>(end));
    Input next = make_input(shape, Layout::kNhwc, false);
    next.storage = value;
    const Guarded<std::byte> blob("records", unit, Flush::kEnd, 64);
    const Shape out = output_shape("test", shape, {blob.data(), blob.size()});
    value = run_guarded(unit, next, out, Flush::kEnd);
    shape = out;
    begin = end;
  }
  const std::vector<float> together =
      run_guarded(stage.records, input, stage.tensor.shape, Flush::kEnd);
  expect_same_bits(value, together, shape.c);
}

WEEBILL_TEST(shuffle_unit_refuses) {
  Weights weights(false);
  ShuffleUnitSpec spec;
  WEEBILL_EXPECT_THROW(ValueError, "shuffle_unit", pack(spec));
  spec.branch = branch(weights, 8, 8, 9, true, centred(3, 1));
  WEEBILL_EXPECT_THROW(ValueError, "shuffle_unit", pack(spec));
  spec.shortcut = branch(weights, 7, 7, 9, false, centred(3, 1));
  WEEBILL_EXPECT_THROW(ValueError, "shuffle_unit", pack(spec));
  spec.shortcut = branch(weights, 8, 8, 8, false, centred(3, 1));
  WEEBILL_EXPECT_THROW(ValueError, "shuffle_unit", pack(spec));
  spec.branch = branch(weights, 8, 8, 8, true, centred(3, 2));
  spec.shortcut = {};
  expect_refused("stride in a basic unit", pack(spec),
                 make_input({1, 16, 9, 9}, Layout::kNhwc, false));
  spec.shortcut = branch(weights, 8, 8, 8, false, centred(3, 1));
  expect_refused("branches of two sizes", pack(spec),
                 make_input({1, 8, 9, 9}, Layout::kNhwc, false));
}

/// A unit whose parts were exchanged or cut off is damaged, not run.
WEEBILL_TEST(shuffle_unit_damaged) {
  Weights weights(false);
  ShuffleUnitSpec spec;
  spec.branch = branch(weights, 4, 4, 4, true, centred(3, 1));
  const Bytes good = pack(spec);
  const Input input = make_input({1, 8, 5, 5}, Layout::kNhwc, false);
  for (std::size_t i = 0; i < good.size(); i += 4) {
    Bytes bad = good;
    bad[i] ^= std::byte{1};
    // Weights may be any number; headers may not.
    const Guarded<std::byte> blob("records", bad, Flush::kEnd, 64);
    set_case("byte %zu changed", i);
    try {
      const Shape y = output_shape("test", {1, 8, 5, 5}, {blob.data(), blob.size()});
      run_guarded(bad, input, y, Flush::kEnd);
    } catch (const ValueError&) {
    }
  }
  for (std::size_t size = 0; size < good.size(); size += 64) {
    const Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    expect_refused("cut off", cut, input);
  }
}

void check_v1(const ShuffleUnitV1Spec& spec, const std::string& what, const Input& input,
              bool exact) {
  set_case("%s: pack", what.c_str());
  const Bytes record = pack(spec);
  run_records(what, record, input, {reference::shuffle_unit_v1(spec, to_tensor(input)), exact});
}

WEEBILL_RECORD_TEST(shuffle_unit_v1_random) {
  using Shortcut = ShuffleUnitV1Spec::Shortcut;
  for (int i = 0; i < (few_cases() ? 20 : 150); ++i) {
    const bool integers = rng().coin();
    Weights weights(integers);
    const std::int64_t g = rng().pick(Sizes{1, 2, 3, 4, 8});
    const std::int64_t c_in = g * rng().integer(1, 9), c_mid = g * rng().integer(1, 9);
    ShuffleUnitV1Spec spec;
    spec.expand_groups = rng().integer(0, 3) == 0 ? 1 : g;
    spec.shuffle_groups = rng().integer(0, 5) == 0 ? 1 : g;
    spec.project_groups = g;
    spec.shortcut =
        rng().pick(std::vector<Shortcut>{Shortcut::kNone, Shortcut::kAdd, Shortcut::kConcat});
    const bool add = spec.shortcut == Shortcut::kAdd;
    const std::int64_t c_out = add ? c_in : g * rng().integer(1, 9);
    spec.expand_weight = weights.make("expand_weight", {c_mid, c_in / spec.expand_groups, 1, 1});
    spec.expand_bias = weights.maybe_bias("expand_bias", c_mid);
    spec.depthwise_weight = weights.make("depthwise_weight", {c_mid, 1, 3, 3});
    spec.depthwise_bias = weights.maybe_bias("depthwise_bias", c_mid);
    spec.project_weight = weights.make("project_weight", {c_out, c_mid / g, 1, 1});
    spec.project_bias = weights.maybe_bias("project_bias", c_out);
    spec.window = centred(3, add ? 1 : static_cast<std::int32_t>(rng().integer(1, 2)));
    spec.activation = any_activation(integers);
    const Input input = make_input(any_image(c_in), any_layout_of_input(), integers);
    check_v1(spec,
             format("shuffle_unit_v1 groups %lld %lld %lld widths %lld %lld %lld shortcut %d",
                    static_cast<long long>(spec.expand_groups),
                    static_cast<long long>(spec.shuffle_groups), static_cast<long long>(g),
                    static_cast<long long>(c_in), static_cast<long long>(c_mid),
                    static_cast<long long>(c_out), static_cast<int>(spec.shortcut)),
             input, integers && spec.shortcut != Shortcut::kConcat);
  }
}

WEEBILL_RECORD_TEST(channel_shuffle_record) {
  for (std::int64_t groups : {1, 2, 3, 4, 8, 12, 24}) {
    ChannelShuffleSpec spec;
    spec.channels = groups * rng().integer(1, 20);
    spec.groups = groups;
    const Input input = make_input({2, spec.channels, 9, 20}, any_layout_of_input(), false);
    run_records(format("channel_shuffle %lld in %lld", static_cast<long long>(spec.channels),
                       static_cast<long long>(groups)),
                pack(spec), input, {reference::channel_shuffle(to_tensor(input), groups), true});
  }
  ChannelShuffleSpec bad;
  bad.channels = 7;
  bad.groups = 2;
  WEEBILL_EXPECT_THROW(ValueError, "channel_shuffle", pack(bad));
}

/// Elements of every size, both layouts, on threads.
WEEBILL_TEST(channel_shuffle_elements) {
  for (int i = 0; i < (options().quick ? 60 : 400); ++i) {
    const std::int64_t bytes = rng().pick(Sizes{1, 2, 4, 8, 16});
    const std::int64_t groups = rng().pick(Sizes{1, 2, 3, 4, 5, 8});
    // Of the tall ones many are worth several threads.
    const Shape s{rng().integer(0, 2), groups * rng().integer(1, 20),
                  rng().integer(1, rng().coin() ? 30 : 240), rng().integer(1, 30)};
    const bool nhwc = rng().coin();
    const std::int64_t pixels = s.h * s.w, elements = s.n * s.c * pixels;
    std::vector<std::uint8_t> values(static_cast<std::size_t>(elements * bytes));
    for (std::uint8_t& value : values) value = static_cast<std::uint8_t>(rng().next());
    std::vector<std::uint8_t> expected(values.size());
    for (std::int64_t at = 0; at < elements; ++at) {
      const std::int64_t image = at / (s.c * pixels), rest = at % (s.c * pixels);
      const std::int64_t c = nhwc ? rest % s.c : rest / pixels;
      const std::int64_t p = nhwc ? rest / s.c : rest % pixels;
      const std::int64_t from = c % groups * (s.c / groups) + c / groups;
      const std::int64_t source =
          image * s.c * pixels + (nhwc ? p * s.c + from : from * pixels + p);
      std::memcpy(&expected[static_cast<std::size_t>(at * bytes)],
                  &values[static_cast<std::size_t>(source * bytes)],
                  static_cast<std::size_t>(bytes));
    }
    const int threads = static_cast<int>(rng().integer(1, 3));
    set_case("%s groups %lld bytes %lld nhwc %d threads %d", shape_text(s).c_str(),
             static_cast<long long>(groups), static_cast<long long>(bytes), nhwc, threads);
    const ParallelMode mode(threads);
    const Guarded<std::uint8_t> x("x", values, any_flush(), static_cast<std::size_t>(bytes));
    const Guarded<std::uint8_t> y("y", values.size(), any_flush(), static_cast<std::size_t>(bytes));
    AnyTensorView view{x.data(), bytes, s.n, s.c, s.h, s.w, s.c * pixels, 0, 0, 0};
    view.stride_c = nhwc ? 1 : pixels;
    view.stride_h = nhwc ? s.w * s.c : s.w;
    view.stride_w = nhwc ? s.c : 1;
    channel_shuffle(view, groups, nhwc, y.data());
    WEEBILL_EXPECT(x.unchanged(values));
    WEEBILL_EXPECT(y.intact());
    WEEBILL_EXPECT(std::equal(expected.begin(), expected.end(), y.data()));
  }
  WEEBILL_EXPECT_THROW(ValueError, "channel_shuffle",
                       channel_shuffle({nullptr, 4, 1, 4, 1, 1, 4, 1, 4, 4}, 3, true, nullptr));
  WEEBILL_EXPECT_THROW(ValueError, "channel_shuffle",
                       channel_shuffle({nullptr, 3, 1, 4, 1, 1, 4, 1, 4, 4}, 2, true, nullptr));
}

}  // namespace
}  // namespace weebill::testing
