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
    values_.push_back(std::make_unique<std::vector<float>>(numbers(count)));
    return {values_.back()->data(), shape};
  }

 private:
  std::vector<std::unique_ptr<std::vector<float>>> values_;
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
  SeparableSpec spec = separable(branch, weights, activation);
  spec.depthwise_activation = Activation::kNone;
  const std::vector<std::byte> first = pack(spec);
  std::vector<std::byte> second;
  if (b.s != 1) {
    branch.expand = 0;
    branch.c_mid = b.c_in;
    SeparableSpec shortcut = separable(branch, weights, activation);
    shortcut.depthwise_activation = Activation::kNone;
    second = pack(shortcut);
  }
  return pack_shuffle_unit({first.data(), first.size()}, {second.data(), second.size()});
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

float* align64(std::vector<float>& values) {
  const auto at = reinterpret_cast<std::uintptr_t>(values.data());
  return values.data() + (64 - at % 64) % 64 / sizeof(float);
}

void bench_block(Bench& bench, const std::string& group, const BlockShape& b) {
  Case what{group, b.name, 0, 0, b.count};
  if (!bench.wants(what)) return;
  const bool layers = bench.options().layers;
  if (layers && b.kind != "separable") return;
  const std::vector<std::byte> record = layers ? pack_layers(b) : pack_block(b);
  std::vector<float> storage(record.size() / sizeof(float) + 16);
  float* const aligned = align64(storage);
  std::copy(record.begin(), record.end(), reinterpret_cast<std::byte*>(aligned));
  const Packed packed{reinterpret_cast<const std::byte*>(aligned), record.size()};
  const Shape x_shape{1, b.c_in, b.h, b.w};
  const Shape y_shape = output_shape("bench", x_shape, packed);
  const std::vector<float> x = numbers(b.c_in * b.h * b.w);
  std::vector<float> y(static_cast<std::size_t>(y_shape.n * y_shape.c * y_shape.h * y_shape.w));
  const TensorView view{x.data(), 1, b.c_in, b.h, b.w, b.h * b.w * b.c_in, 1, b.w * b.c_in, b.c_in};
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
  for (const std::filesystem::path& file : files) {
    for (const BlockShape& shape : read_shapes(file)) bench_block(bench, file.stem(), shape);
  }
}

}  // namespace weebill::bench
