// Whole blocks of networks, as the suites of python/weebill/bench list them, through the core.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "core/weebill.h"
#include "timing.h"

namespace weebill::bench {
namespace {

struct BlockShape {
  std::string kind, name, activation, project;
  std::int64_t c_in, h, w, c_mid, c_out;
  std::int32_t k, s, pad;
  std::int64_t expand, c_se, residual, count;
};

std::vector<BlockShape> read_shapes(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::vector<BlockShape> shapes;
  for (std::string line; std::getline(stream, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    BlockShape b;
    words >> b.kind >> b.name >> b.c_in >> b.h >> b.w >> b.c_mid >> b.c_out >> b.k >> b.s >>
        b.pad >> b.expand >> b.c_se >> b.activation >> b.project >> b.residual >> b.count;
    if (!words) throw std::runtime_error(file.string() + ": can't read this line: " + line);
    shapes.push_back(b);
  }
  return shapes;
}

/// Owns the numbers that the specs point to while a record is packed.
class Weights {
 public:
  Weight make(const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (std::int64_t size : shape) count *= size;
    values_.push_back(std::make_unique<Floats>(numbers(count)));
    return {values_.back()->data(), shape};
  }

 private:
  std::vector<std::unique_ptr<Floats>> values_;
};

Window window_of(const BlockShape& b) {
  Window w;
  w.stride_h = w.stride_w = b.s;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = b.pad;
  return w;
}

SeparableSpec separable(const BlockShape& b, Weights& weights, Activation activation) {
  SeparableSpec spec;
  if (b.expand != 0) {
    spec.expand_weight = weights.make({b.c_mid, b.c_in, 1, 1});
    spec.expand_bias = weights.make({b.c_mid});
    spec.expand_activation = activation;
  }
  spec.depthwise_weight = weights.make({b.c_mid, 1, b.k, b.k});
  spec.depthwise_bias = weights.make({b.c_mid});
  spec.depthwise_activation = activation;
  if (b.c_se > 0) {
    spec.se_reduce_weight = weights.make({b.c_se, b.c_mid, 1, 1});
    spec.se_reduce_bias = weights.make({b.c_se});
    spec.se_expand_weight = weights.make({b.c_mid, b.c_se, 1, 1});
    spec.se_expand_bias = weights.make({b.c_mid});
  }
  spec.project_weight = weights.make({b.c_out, b.c_mid, 1, 1});
  spec.project_bias = weights.make({b.c_out});
  spec.project_activation = parse_activation("bench", "project", b.project);
  spec.window = window_of(b);
  spec.residual = b.residual != 0;
  return spec;
}

/// ShuffleNetV2's unit: a branch, and where the stride is not 1 a shortcut beside it.
std::vector<std::byte> pack_shuffle(const BlockShape& b, Weights& weights, Activation activation) {
  BlockShape branch = b;
  branch.c_in = b.s == 1 ? b.c_in / 2 : b.c_in;
  branch.c_out = b.c_out / 2;
  ShuffleUnitSpec unit;
  unit.branch = separable(branch, weights, activation);
  unit.branch.depthwise_activation = Activation::kNone;
  if (b.s != 1) {
    branch.expand = 0;
    branch.c_mid = b.c_in;
    unit.shortcut = separable(branch, weights, activation);
    unit.shortcut.depthwise_activation = Activation::kNone;
  }
  return pack(unit);
}

std::vector<std::byte> pack_block(const BlockShape& b) {
  Weights weights;
  const Activation activation = parse_activation("bench", "activation", b.activation);
  if (b.kind == "pool") {
    GlobalPoolSpec spec;
    spec.channels = b.c_in;
    return pack(spec);
  }
  if (b.kind == "conv2d") {
    Conv2dSpec spec;
    spec.weight = weights.make({b.c_out, b.c_in, b.k, b.k});
    spec.bias = weights.make({b.c_out});
    spec.window = window_of(b);
    spec.activation = activation;
    return pack(spec);
  }
  if (b.kind == "max_pool") {
    MaxPoolSpec spec;
    spec.channels = b.c_in;
    spec.window = window_of(b);
    spec.window.kernel_h = spec.window.kernel_w = b.k;
    return pack(spec);
  }
  if (b.kind == "shuffle_unit") return pack_shuffle(b, weights, activation);
  if (b.kind != "separable") throw std::runtime_error("unknown kind of block: " + b.kind);
  return pack(separable(b, weights, activation));
}

/// The layers of a separable block as records of their own, run one after another. The residual is
/// left out: nothing of ours adds two tensors and does nothing else.
std::vector<std::byte> pack_layers(const BlockShape& b) {
  Weights weights;
  const Activation activation = parse_activation("bench", "activation", b.activation);
  SeparableSpec block = separable(b, weights, activation);
  std::vector<std::byte> layers;
  const auto add = [&layers](const std::vector<std::byte>& record) {
    layers.insert(layers.end(), record.begin(), record.end());
  };
  const auto convolution = [&](Weight weight, Weight bias, Window window, std::int64_t groups,
                               Activation act) {
    Conv2dSpec spec;
    spec.weight = weight;
    spec.bias = bias;
    spec.window = window;
    spec.groups = groups;
    spec.activation = act;
    add(pack(spec));
  };
  if (block.expand_weight) {
    convolution(block.expand_weight, block.expand_bias, {}, 1, activation);
  }
  convolution(block.depthwise_weight, block.depthwise_bias, block.window, b.c_mid, activation);
  if (block.se_reduce_weight) {
    SqueezeExciteSpec spec;
    spec.reduce_weight = block.se_reduce_weight;
    spec.reduce_bias = block.se_reduce_bias;
    spec.expand_weight = block.se_expand_weight;
    spec.expand_bias = block.se_expand_bias;
    add(pack(spec));
  }
  convolution(block.project_weight, block.project_bias, {}, 1, block.project_activation);
  return layers;
}

/// ShuffleNetV1's units with 3 groups; the suites have no grouped 1 x 1 convolutions.
struct ShuffleV1Shape {
  const char* name;
  std::int64_t c_in, side, c_out, expand_groups, count;
};
constexpr ShuffleV1Shape kShuffleV1[] = {
    {"56_240_s2", 24, 56, 240, 1, 1},  {"28_240", 240, 28, 240, 3, 3},
    {"28_480_s2", 240, 28, 480, 3, 1}, {"14_480", 480, 14, 480, 3, 7},
    {"14_960_s2", 480, 14, 960, 3, 1}, {"7_960", 960, 7, 960, 3, 3},
};

std::vector<std::byte> pack_shuffle_v1(const ShuffleV1Shape& b) {
  constexpr std::int64_t kGroups = 3;
  const bool basic = b.c_in == b.c_out;
  const std::int64_t c_mid = b.c_out / 4, c_branch = basic ? b.c_out : b.c_out - b.c_in;
  Weights weights;
  ShuffleUnitV1Spec spec;
  spec.expand_weight = weights.make({c_mid, b.c_in / b.expand_groups, 1, 1});
  spec.expand_bias = weights.make({c_mid});
  spec.depthwise_weight = weights.make({c_mid, 1, 3, 3});
  spec.depthwise_bias = weights.make({c_mid});
  spec.project_weight = weights.make({c_branch, c_mid / kGroups, 1, 1});
  spec.project_bias = weights.make({c_branch});
  spec.expand_groups = b.expand_groups;
  spec.shuffle_groups = spec.project_groups = kGroups;
  spec.window.stride_h = spec.window.stride_w = basic ? 1 : 2;
  Window& w = spec.window;
  w.pad_top = w.pad_left = w.pad_bottom = w.pad_right = 1;
  spec.shortcut = basic ? ShuffleUnitV1Spec::Shortcut::kAdd : ShuffleUnitV1Spec::Shortcut::kConcat;
  return pack(spec);
}

float* align64(Floats& values) {
  const auto at = reinterpret_cast<std::uintptr_t>(values.data());
  return values.data() + (64 - at % 64) % 64 / sizeof(float);
}

void bench_record(Bench& bench, Case what, const std::vector<std::byte>& record,
                  const Shape& x_shape) {
  Floats storage(record.size() / sizeof(float) + 16);
  float* const aligned = align64(storage);
  std::copy(record.begin(), record.end(), reinterpret_cast<std::byte*>(aligned));
  const Packed packed{reinterpret_cast<const std::byte*>(aligned), record.size()};
  const Shape y_shape = output_shape("bench", x_shape, packed);
  const auto [n, c, h, w] = x_shape;
  const Floats x = numbers(n * c * h * w);
  Floats y(static_cast<std::size_t>(y_shape.n * y_shape.c * y_shape.h * y_shape.w));
  const TensorView view{x.data(), n, c, h, w, h * w * c, 1, w * c, c};
  what.flops = 2.0 * static_cast<double>(multiply_adds(x_shape, packed));
  what.bytes = static_cast<double>((x.size() + y.size()) * sizeof(float) + record.size());
  bench.run(what, [&] { run("bench", view, packed, y.data()); });
}

}  // namespace

void bench_blocks(Bench& bench) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(bench.options().shapes)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  const bool layers = bench.options().layers;
  for (const std::filesystem::path& file : files) {
    for (const BlockShape& b : read_shapes(file)) {
      const Case what{file.stem(), b.name, 0, 0, b.count};
      if (!bench.wants(what) || (layers && b.kind != "separable")) continue;
      bench_record(bench, what, layers ? pack_layers(b) : pack_block(b), {1, b.c_in, b.h, b.w});
    }
  }
  if (layers) return;
  for (const ShuffleV1Shape& b : kShuffleV1) {
    const Case what{"shufflenet_v1_g3", b.name, 0, 0, b.count};
    if (bench.wants(what)) {
      bench_record(bench, what, pack_shuffle_v1(b), {1, b.c_in, b.side, b.side});
    }
  }
}

}  // namespace weebill::bench
