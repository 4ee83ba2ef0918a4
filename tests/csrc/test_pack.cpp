// What pack() refuses, and what the readers of packed records refuse: a blob may come from a file.
#include <cstddef>
#include <cstring>
#include <functional>

#include "core/record.h"
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

SeparableSpec full_block(Weights& weights) {
  SeparableSpec spec;
  spec.op = "block";
  spec.expand_weight = weights.make("expand_weight", {16, 8, 1, 1});
  spec.expand_bias = weights.make("expand_bias", {16});
  spec.depthwise_weight = weights.make("depthwise_weight", {16, 1, 3, 3});
  spec.depthwise_bias = weights.make("depthwise_bias", {16});
  spec.se_reduce_weight = weights.make("se_reduce_weight", {4, 16, 1, 1});
  spec.se_reduce_bias = weights.make("se_reduce_bias", {4});
  spec.se_expand_weight = weights.make("se_expand_weight", {16, 4, 1, 1});
  spec.se_expand_bias = weights.make("se_expand_bias", {16});
  spec.project_weight = weights.make("project_weight", {8, 16, 1, 1});
  spec.project_bias = weights.make("project_bias", {8});
  spec.window.pad_top = spec.window.pad_left = 1;
  spec.window.pad_bottom = spec.window.pad_right = 1;
  spec.residual = true;
  return spec;
}

WEEBILL_TEST(pack_refuses_wrong_conv2d) {
  Weights weights(false);
  const Weight good = weights.make("weight", {6, 4, 3, 3});
  auto refused = [&](const char* what, const std::function<void(Conv2dSpec&)>& spoil) {
    set_case("%s", what);
    Conv2dSpec spec;
    spec.op = "conv";
    spec.weight = good;
    spoil(spec);
    WEEBILL_EXPECT_THROW(ValueError, "conv", pack(spec));
  };
  refused("no weight", [](Conv2dSpec& s) { s.weight = {}; });
  refused("rank 3", [](Conv2dSpec& s) { s.weight.shape = {6, 4, 9}; });
  refused("rank 5", [](Conv2dSpec& s) { s.weight.shape = {6, 4, 3, 3, 1}; });
  refused("no outputs", [](Conv2dSpec& s) { s.weight.shape = {0, 4, 3, 3}; });
  refused("negative size", [](Conv2dSpec& s) { s.weight.shape = {6, -4, 3, 3}; });
  refused("no taps", [](Conv2dSpec& s) { s.weight.shape = {6, 4, 0, 3}; });
  refused("bias of 5", [&](Conv2dSpec& s) { s.bias = weights.make("bias", {5}); });
  refused("bias of rank 2", [&](Conv2dSpec& s) { s.bias = weights.make("bias", {6, 1}); });
  refused("groups 0", [](Conv2dSpec& s) { s.groups = 0; });
  refused("groups -1", [](Conv2dSpec& s) { s.groups = -1; });
  refused("groups 4 of 6", [](Conv2dSpec& s) { s.groups = 4; });
  refused("stride 0", [](Conv2dSpec& s) { s.window.stride_h = 0; });
  refused("stride -1", [](Conv2dSpec& s) { s.window.stride_w = -1; });
  refused("dilation 0", [](Conv2dSpec& s) { s.window.dilation_w = 0; });
  refused("padding -1", [](Conv2dSpec& s) { s.window.pad_right = -1; });
  refused("padding 2^31 - 1", [](Conv2dSpec& s) { s.window.pad_top = INT32_MAX; });
  refused("activation 99", [](Conv2dSpec& s) { s.activation = static_cast<Activation>(99); });
}

WEEBILL_TEST(pack_refuses_wrong_blocks) {
  Weights weights(false);
  const SeparableSpec good = full_block(weights);
  WEEBILL_EXPECT(!pack(good).empty());
  auto refused = [&](const char* what, const std::function<void(SeparableSpec&)>& spoil) {
    set_case("%s", what);
    SeparableSpec spec = good;
    spoil(spec);
    WEEBILL_EXPECT_THROW(ValueError, "block", pack(spec));
  };
  refused("no depthwise", [](SeparableSpec& s) { s.depthwise_weight = {}; });
  refused("dense depthwise", [](SeparableSpec& s) { s.depthwise_weight.shape = {8, 2, 3, 3}; });
  refused("15 depthwise", [](SeparableSpec& s) { s.depthwise_weight.shape = {15, 1, 3, 3}; });
  refused("expand 3x3", [](SeparableSpec& s) { s.expand_weight.shape = {16, 2, 2, 2}; });
  refused("expand rank 2", [](SeparableSpec& s) { s.expand_weight.shape = {16, 8}; });
  refused("expand to 32", [](SeparableSpec& s) { s.expand_weight.shape = {32, 4, 1, 1}; });
  refused("expand bias", [](SeparableSpec& s) { s.expand_bias.shape = {8}; });
  refused("depthwise bias", [](SeparableSpec& s) { s.depthwise_bias.shape = {4, 4}; });
  refused("half an SE", [](SeparableSpec& s) { s.se_expand_weight = {}; });
  refused("other half", [](SeparableSpec& s) { s.se_reduce_weight = {}; });
  refused("SE of 8", [](SeparableSpec& s) { s.se_reduce_weight.shape = {8, 8, 1, 1}; });
  refused("SE bias", [](SeparableSpec& s) { s.se_reduce_bias.shape = {16}; });
  refused("project from 8", [](SeparableSpec& s) { s.project_weight.shape = {16, 8, 1, 1}; });
  refused("project bias", [](SeparableSpec& s) { s.project_bias.shape = {7}; });
  refused("residual, stride 2", [](SeparableSpec& s) { s.window.stride_w = 2; });
  refused("residual, 4 to 8", [](SeparableSpec& s) { s.expand_weight.shape = {16, 4, 1, 1}; });
  refused("gate 8", [](SeparableSpec& s) { s.se_gate = static_cast<Activation>(8); });
  refused("activation -1",
          [](SeparableSpec& s) { s.depthwise_activation = static_cast<Activation>(-1); });
  // Biases without their layer.
  refused("bias without expansion", [](SeparableSpec& s) {
    s.expand_weight = {};
    s.residual = false;
  });
  refused("bias without projection", [](SeparableSpec& s) {
    s.project_weight = {};
    s.residual = false;
  });
}

WEEBILL_TEST(pack_refuses_other_specs) {
  Weights weights(false);
  SqueezeExciteSpec se;
  se.op = "se";
  se.reduce_weight = weights.make("reduce_weight", {4, 16, 1, 1});
  se.expand_weight = weights.make("expand_weight", {15, 4, 1, 1});
  WEEBILL_EXPECT_THROW(ValueError, "se", pack(se));
  se.expand_weight = {};
  WEEBILL_EXPECT_THROW(ValueError, "se", pack(se));
  for (std::int64_t channels : {std::int64_t{0}, std::int64_t{-1}, INT64_MAX}) {
    GlobalPoolSpec pool;
    pool.op = "pool";
    pool.channels = channels;
    WEEBILL_EXPECT_THROW(ValueError, "pool", pack(pool));
  }
}

WEEBILL_TEST(pack_is_deterministic) {
  Weights weights(false);
  const SeparableSpec spec = full_block(weights);
  WEEBILL_EXPECT(pack(spec) == pack(spec));
}

// The layout as kernels/args.h tells it, element by element.
WEEBILL_TEST(pack_orders_weights_for_the_kernels) {
  Weights weights(false);
  for (const std::int64_t groups : {1, 2}) {
    for (const std::int64_t n : {1, 7, 8, 9, 16, 17, 24, 25, 50}) {
      for (const std::int64_t depth : {1, 3, 15, 16, 17, 50}) {
        for (const std::int64_t side : {1, 3}) {
          set_case("groups=%d n=%d depth=%d side=%d", static_cast<int>(groups), static_cast<int>(n),
                   static_cast<int>(depth), static_cast<int>(side));
          if (depth == 1 && n == 1 && groups > 1) continue;  // depthwise
          Conv2dSpec spec;
          spec.weight = weights.make("weight", {n * groups, depth, side, side});
          spec.bias = weights.make("bias", {n * groups});
          spec.groups = groups;
          const Bytes record = pack(spec);
          const auto* packed = reinterpret_cast<const float*>(record.data() + kHeaderBytes);
          const std::int64_t taps = side * side;
          const std::int64_t blocks = n / 16 * 16 + (n % 16 == 0 ? 0 : n % 16 <= 8 ? 8 : 16);
          const float* bias = packed + round_up(blocks * depth * taps * groups, 16);
          for (std::int64_t g = 0; g < groups; ++g) {
            for (std::int64_t first = 0; first < n; first += 16) {
              const std::int64_t width = n - first <= 8 ? 8 : 16;
              for (std::int64_t tap = 0; tap < taps; ++tap) {
                for (std::int64_t d = 0; d < depth; ++d) {
                  for (std::int64_t o = first; o < first + width; ++o) {
                    const std::int64_t row = (g * n + o) * depth + d;
                    const float wanted = o < n ? spec.weight.data[row * taps + tap] : 0.0f;
                    WEEBILL_EXPECT(*packed++ == wanted);
                  }
                }
              }
            }
            for (std::int64_t o = 0; o < round_up(n, 16); ++o) {
              WEEBILL_EXPECT(*bias++ == (o < n ? spec.bias.data[g * n + o] : 0.0f));
            }
          }
        }
      }
    }
  }
}

// Memory that is given may hold anything before: every byte is written, the padding too.
template <typename Spec>
void expect_all_written(const char* name, const Spec& spec) {
  set_case("%s", name);
  const Bytes zeroed = pack(spec);
  Bytes dirty;
  int asked = 0;
  pack(spec, [&](std::size_t bytes) {
    ++asked;
    dirty.assign(bytes, std::byte{0xA5});
    return dirty.data();
  });
  WEEBILL_EXPECT(asked == 1);
  WEEBILL_EXPECT(dirty == zeroed);
}

WEEBILL_TEST(pack_writes_every_byte_of_the_memory_it_is_given) {
  Weights weights(false);
  expect_all_written("separable", full_block(weights));
  Conv2dSpec conv;
  conv.weight =
      weights.make("weight", {3, 5, 1, 1});  // half a block of odd depth: 32 bytes of rest
  expect_all_written("pointwise", conv);
  conv.weight = weights.make("weight", {34, 3, 3, 3});
  conv.groups = 2;
  expect_all_written("conv2d", conv);
  SqueezeExciteSpec se;
  se.reduce_weight = weights.make("reduce_weight", {3, 17, 1, 1});
  se.expand_weight = weights.make("expand_weight", {17, 3, 1, 1});
  expect_all_written("squeeze_excite", se);
  GlobalPoolSpec pool;
  pool.channels = 17;
  expect_all_written("global_pool", pool);
  ShuffleUnitSpec unit;
  unit.branch.depthwise_weight = weights.make("depthwise_weight", {17, 1, 3, 3});
  unit.branch.project_weight = weights.make("project_weight", {17, 17, 1, 1});
  expect_all_written("shuffle_unit", unit);
  ShuffleUnitV1Spec v1;
  v1.expand_weight = weights.make("expand_weight", {6, 3, 1, 1});
  v1.depthwise_weight = weights.make("depthwise_weight", {6, 1, 3, 3});
  v1.project_weight = weights.make("project_weight", {6, 3, 1, 1});
  v1.expand_groups = v1.project_groups = v1.shuffle_groups = 2;
  v1.shortcut = ShuffleUnitV1Spec::Shortcut::kConcat;
  expect_all_written("shuffle_unit_v1", v1);
}

/// Whether all readers took the blob; they must agree, and refuse only by ValueError. Where they
/// take it and the output is not huge, it is run as well.
bool accepted(const std::byte* data, std::size_t bytes, const Input& input) {
  const Packed packed{data, bytes};
  const Shape x{input.view.n, input.view.c, input.view.h, input.view.w};
  Shape y;
  try {
    y = output_shape("test", x, packed);
  } catch (const ValueError&) {
    WEEBILL_EXPECT_THROW(ValueError, nullptr, explain(x, packed, 2));
    WEEBILL_EXPECT_THROW(ValueError, nullptr, multiply_adds(x, packed));
    float nothing;
    TensorView view = input.view;
    view.data = input.storage.data();
    WEEBILL_EXPECT_THROW(ValueError, "test", run("test", view, packed, &nothing));
    return false;
  }
  WEEBILL_EXPECT(y.n >= 0 && y.c >= 1 && y.h >= 1 && y.w >= 1);
  WEEBILL_EXPECT(!explain(x, packed, 2).empty());
  WEEBILL_EXPECT(multiply_adds(x, packed) >= 0);
  if (is_float16("test", packed) && !has_float16()) return true;  // a record without weights
  const double elements = static_cast<double>(y.n) * static_cast<double>(y.c) *
                          static_cast<double>(y.h) * static_cast<double>(y.w);
  if (elements <= 1e6) {
    const Guarded<float> out("y", static_cast<std::size_t>(elements), Flush::kEnd);
    const Guarded<float> in("x", input.storage, Flush::kEnd);
    TensorView view = input.view;
    view.data = in.data();
    run("test", view, packed, out.data());
  }
  return true;
}

struct Victim {
  const char* name;
  Bytes record;
  Input input;
};

/// One record of each kind.
std::vector<Victim> victims(Weights& weights) {
  std::vector<Victim> all;
  Conv2dSpec conv;
  conv.weight = weights.make("weight", {6, 4, 3, 3});
  conv.groups = 2;
  all.push_back({"conv2d", pack(conv), make_input({1, 8, 6, 5}, Layout::kNhwc, false)});
  Conv2dSpec pointwise;
  pointwise.weight = weights.make("weight", {17, 8, 1, 1});
  all.push_back({"pointwise", pack(pointwise), make_input({1, 8, 6, 5}, Layout::kNhwc, false)});
  all.push_back(
      {"separable", pack(full_block(weights)), make_input({1, 8, 6, 5}, Layout::kNhwc, false)});
  SqueezeExciteSpec se;
  se.reduce_weight = weights.make("reduce_weight", {2, 8, 1, 1});
  se.expand_weight = weights.make("expand_weight", {8, 2, 1, 1});
  all.push_back({"squeeze_excite", pack(se), make_input({1, 8, 6, 5}, Layout::kNhwc, false)});
  GlobalPoolSpec pool;
  pool.channels = 8;
  all.push_back({"pool", pack(pool), make_input({1, 8, 6, 5}, Layout::kNhwc, false)});
  return all;
}

WEEBILL_TEST(hostile_truncation) {
  Weights weights(false);
  for (const Victim& victim : victims(weights)) {
    for (std::size_t bytes = 0; bytes < victim.record.size();
         bytes += bytes < sizeof(RecordHeader) + 64 ? 1 : 61) {
      set_case("%s cut to %zu of %zu bytes", victim.name, bytes, victim.record.size());
      // Aligned as asked, and as close to the guard page as that allows.
      const Bytes cut(victim.record.begin(),
                      victim.record.begin() + static_cast<std::ptrdiff_t>(bytes));
      const Guarded<std::byte> blob("records", cut, Flush::kEnd, 64);
      WEEBILL_EXPECT(!accepted(blob.data(), bytes, victim.input));
    }
    // One whole record, then half of another.
    Bytes tail = victim.record;
    tail.insert(tail.end(), victim.record.begin(), victim.record.begin() + 64);
    set_case("%s with a piece after it", victim.name);
    const Guarded<std::byte> blob("records", tail, Flush::kEnd, 64);
    WEEBILL_EXPECT(!accepted(blob.data(), blob.size(), victim.input));
  }
}

WEEBILL_TEST(hostile_pointers) {
  Weights weights(false);
  const Victim victim = victims(weights).front();
  const Guarded<std::byte> blob("records", victim.record.size() + 64, Flush::kEnd, 64);
  for (std::size_t shift : {1, 4, 8, 24, 63}) {
    set_case("%zu bytes off", shift);
    std::memcpy(blob.data() + shift, victim.record.data(), victim.record.size());
    WEEBILL_EXPECT(!accepted(blob.data() + shift, victim.record.size(), victim.input));
  }
  set_case("null");
  WEEBILL_EXPECT(!accepted(nullptr, 0, victim.input));
  WEEBILL_EXPECT(!accepted(nullptr, 64, victim.input));
}

WEEBILL_TEST(hostile_header_bits) {
  Weights weights(false);
  for (const Victim& victim : victims(weights)) {
    for (std::size_t byte = 0; byte < sizeof(RecordHeader); ++byte) {
      if (options().quick && byte % 4 == 3) continue;
      for (int bit = 0; bit < 8; ++bit) {
        set_case("%s: bit %d of byte %zu flipped", victim.name, bit, byte);
        Bytes bytes = victim.record;
        bytes[byte] ^= static_cast<std::byte>(1 << bit);
        const Guarded<std::byte> blob("records", bytes, Flush::kEnd, 64);
        const bool took = accepted(blob.data(), blob.size(), victim.input);
        const bool identifies = byte < offsetof(RecordHeader, kind) ||
                                (byte >= offsetof(RecordHeader, bytes) &&
                                 byte < offsetof(RecordHeader, bytes) + sizeof(std::uint64_t));
        if (identifies) WEEBILL_EXPECT(!took);
      }
    }
  }
}

/// Random numbers of interesting sizes in the header's fields, several at once.
WEEBILL_TEST(hostile_header_fields) {
  Weights weights(false);
  const std::vector<std::int32_t> numbers = {
      -1,  0,       1,       2,       3,       7,       8,         16,        17,
      255, 1 << 12, 1 << 16, 1 << 20, 1 << 28, 1 << 30, INT32_MAX, INT32_MIN, 0x7fff0000};
  const std::size_t fields = sizeof(RecordHeader) / sizeof(std::int32_t);
  const int rounds = options().quick ? 500 : 5000;
  for (const Victim& victim : victims(weights)) {
    for (int round = 0; round < rounds; ++round) {
      Bytes bytes = victim.record;
      std::string what;
      for (std::int64_t change = rng().integer(1, 3); change > 0; --change) {
        // Magic and version stay, or nothing behind them would be looked at.
        const auto field =
            static_cast<std::size_t>(rng().integer(3, static_cast<std::int64_t>(fields) - 1));
        const std::int32_t number = rng().pick(numbers);
        std::memcpy(bytes.data() + field * sizeof number, &number, sizeof number);
        what += format(" [%zu] = %d", field, number);
      }
      set_case("%s with%s", victim.name, what.c_str());
      const Guarded<std::byte> blob("records", bytes, Flush::kEnd, 64);
      accepted(blob.data(), blob.size(), victim.input);
    }
  }
}

/// Sizes whose product wraps around to what the header says: 2^20 * 2^24 taps * 2^18 outputs * 4
/// bytes is 0 modulo 2^64.
WEEBILL_TEST(hostile_overflow) {
  Weights weights(false);
  const Victim victim = victims(weights).front();
  RecordHeader header;
  std::memcpy(static_cast<void*>(&header), victim.record.data(), sizeof header);
  header.kind = RecordKind::kConv2d;
  header.groups = 1;
  header.window.kernel_h = header.window.kernel_w = 1 << 12;
  header.window.same = 1;
  for (int shift = 0; shift <= 20; ++shift) {
    header.c_in = 1 << 20;
    header.c_out = 1 << shift;
    const std::uint64_t bias_bytes = (static_cast<std::uint64_t>(header.c_out) + 15) / 16 * 64;
    header.bytes = (sizeof(RecordHeader) + 63) / 64 * 64 + bias_bytes;
    set_case("2^44 inputs to 2^%d outputs in %llu bytes", shift,
             static_cast<unsigned long long>(header.bytes));
    const Guarded<std::byte> blob("records", header.bytes, Flush::kEnd, 64);
    std::memcpy(blob.data(), static_cast<const void*>(&header), sizeof header);
    Input input{};
    input.view = {nullptr, 1, header.c_in, 1, 1, 0, 0, 0, 0};
    input.storage = {1.0f};
    WEEBILL_EXPECT(!accepted(blob.data(), blob.size(), input));
  }
}

/// Inputs whose sizes multiply past any memory.
WEEBILL_TEST(hostile_input_shapes) {
  Weights weights(false);
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const Victim& victim : victims(weights)) {
    const Guarded<std::byte> blob("records", victim.record, Flush::kEnd, 64);
    const Packed packed{blob.data(), blob.size()};
    const Shape shapes[] = {{-1, 8, 6, 5},   {1, 8, -6, 5},
                            {1, 8, 6, -5},   {1, 8, 0, 5},
                            {1, 8, 6, 0},    {1, 7, 6, 5},
                            {1, 0, 6, 5},    {1, -8, 6, 5},
                            {huge, 8, 6, 5}, {1, 8, huge, 5},
                            {1, 8, 6, huge}, {huge, 8, huge, huge},
                            {1, huge, 6, 5}, {INT64_MAX, 8, INT64_MAX, 5}};
    for (const Shape& shape : shapes) {
      set_case("%s on %s", victim.name, shape_text(shape).c_str());
      WEEBILL_EXPECT_THROW(ValueError, "test", output_shape("test", shape, packed));
      WEEBILL_EXPECT_THROW(ValueError, nullptr, multiply_adds(shape, packed));
      WEEBILL_EXPECT_THROW(ValueError, nullptr, explain(shape, packed, 2));
    }
  }
}

}  // namespace
}  // namespace weebill::testing
