// Weights to records, and records back to pointers. The layouts are described in kernels/args.h.
#include <algorithm>
#include <cstring>

#include "core/record.h"
#include "core/status.h"
#include "kernels/args.h"

namespace weebill {
namespace {

constexpr std::uint64_t kAlign = 64;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 38;

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

void check_weight(const std::string& op, const char* name, const Weight& weight,
                  const std::vector<std::int64_t>& wanted) {
  check(weight.data != nullptr, op, ": ", name, " must be given");
  check(weight.shape == wanted, op, ": ", name, " must be ", shape_text(wanted), ", got ",
        shape_text(weight.shape));
}

void check_bias(const std::string& op, const char* name, const Weight& bias,
                std::int64_t channels) {
  if (bias) check_weight(op, name, bias, {channels});
}

void check_rank4(const std::string& op, const char* name, const Weight& weight) {
  check(weight.data != nullptr, op, ": ", name, " must be given");
  check(weight.shape.size() == 4, op, ": ", name, " must have 4 dimensions, got ",
        shape_text(weight.shape));
  for (const std::int64_t size : weight.shape) {
    check(size >= 1 && size <= kMaxChannels, op, ": ", name, " must have sizes from 1 to ",
          kMaxChannels, ", got ", shape_text(weight.shape));
  }
}

void check_activation(const std::string& op, const char* name, Activation activation) {
  const auto code = static_cast<std::int32_t>(activation);
  const auto count = static_cast<std::int32_t>(activation_names().size());
  check(code >= 0 && code < count, op, ": ", name, " must be from 0 to ", count - 1, ", got ",
        code);
}

// A bias whose weight was forgotten.
void check_no_bias(const std::string& op, const char* weight_name, const Weight& weight,
                   const char* bias_name, const Weight& bias) {
  check(weight || !bias, op, ": ", weight_name, " must be given where ", bias_name, " is");
}

void check_window(const std::string& op, const Window& w) {
  auto in_range = [&op](const char* name, std::int64_t a, std::int64_t b, std::int64_t low) {
    check(a >= low && b >= low && a <= kMaxWindow && b <= kMaxWindow, op, ": ", name,
          " must be from ", low, " to ", kMaxWindow, ", got (", a, ", ", b, ")");
  };
  in_range("kernel size", w.kernel_h, w.kernel_w, 1);
  in_range("stride", w.stride_h, w.stride_w, 1);
  in_range("dilation", w.dilation_h, w.dilation_w, 1);
  const bool pads = w.pad_top >= 0 && w.pad_left >= 0 && w.pad_bottom >= 0 && w.pad_right >= 0 &&
                    w.pad_top <= kMaxWindow && w.pad_left <= kMaxWindow &&
                    w.pad_bottom <= kMaxWindow && w.pad_right <= kMaxWindow;
  check(pads, op, ": padding must be from 0 to ", kMaxWindow, ", got (", w.pad_top, ", ",
        w.pad_left, ", ", w.pad_bottom, ", ", w.pad_right, ")");
}

// Columns that are moved at a time: a cache line of every row.
constexpr std::int64_t kTile = 16;

// out[i][o] = w[o * row + i] for 4 x 4 of them. Element by element, packing took a third of the
// time in which a model loads.
template <std::int64_t kWidth>
void transpose_4x4(const float* w, std::int64_t row, float* out) {
  typedef float Four __attribute__((vector_size(16)));
  Four in[4];
  for (std::int64_t o = 0; o < 4; ++o) std::memcpy(&in[o], w + o * row, sizeof(Four));
  const Four low01 = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
  const Four high01 = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
  const Four low23 = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
  const Four high23 = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
  const Four result[4] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                          __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                          __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                          __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (std::int64_t i = 0; i < 4; ++i) std::memcpy(out + i * kWidth, &result[i], sizeof(Four));
}

// out[i][o] = w[o * row + i * step], 0 for the outputs from `outputs` to kWidth.
template <std::int64_t kWidth>
void pack_tile(const float* w, std::int64_t outputs, std::int64_t row, std::int64_t step,
               std::int64_t count, float* out) {
  if (outputs == kWidth && count == kTile && step == 1) {
    for (std::int64_t o = 0; o < kWidth; o += 4) {
      for (std::int64_t i = 0; i < kTile; i += 4) {
        transpose_4x4<kWidth>(w + o * row + i, row, out + i * kWidth + o);
      }
    }
    return;
  }
  for (std::int64_t o = 0; o < kWidth; ++o) {
    for (std::int64_t i = 0; i < count; ++i) {
      out[i * kWidth + o] = o < outputs ? w[o * row + i * step] : 0.0f;
    }
  }
}

// Rows (depth, taps) of up to kWidth outputs to [taps][depth][kWidth].
template <std::int64_t kWidth>
void pack_block(const float* w, std::int64_t outputs, std::int64_t depth, std::int64_t taps,
                float* out) {
  for (std::int64_t d = 0; d < depth; d += kTile) {
    for (std::int64_t t = 0; t < taps; ++t) {
      pack_tile<kWidth>(w + d * taps + t, outputs, depth * taps, taps, std::min(kTile, depth - d),
                        out + (t * depth + d) * kWidth);
    }
  }
}

// Writes a record: the header first, then its sections, up to the cache line that each ends in.
class Writer {
 public:
  Writer(const std::string& op, RecordHeader header, const Allocate& allocate)
      : at(layout(header)) {
    check(at.bytes <= kMaxBytes, op, ": weights must take at most 2^38 bytes, got ", at.bytes);
    header.bytes = at.bytes;
    record_ = allocate(at.bytes);
    std::memset(record_, 0, kHeaderBytes);
    std::memcpy(record_, &header, sizeof(header));
  }

  // Weights (groups, n, depth, taps), the groups one after the other.
  void product(std::uint64_t offset, const Weight& weight, std::int64_t n, std::int64_t depth,
               std::int64_t taps = 1, std::int64_t groups = 1) {
    const std::int64_t k = depth * taps;
    const std::int64_t elements = product_elements(k, n);
    float* out = section(offset, elements * groups);
    for (std::int64_t g = 0; g < groups; ++g) {
      pack_product(weight.data + g * n * k, n, depth, taps, out + g * elements);
    }
  }

  void taps(std::uint64_t offset, const Weight& weight, std::int64_t channels, std::int64_t taps) {
    pack_taps(weight.data, channels, taps, section(offset, round_up(channels, kBlock) * taps));
  }

  // Zeros where there is none.
  void bias(std::uint64_t offset, const Weight& bias, std::int64_t n, std::int64_t groups = 1) {
    const std::int64_t elements = round_up(n, kBlock);
    float* out = section(offset, elements * groups);
    for (std::int64_t g = 0; g < groups; ++g, out += elements) {
      if (bias) std::copy_n(bias.data + g * n, n, out);
      std::fill(bias ? out + n : out, out + elements, 0.0f);
    }
  }

  const RecordLayout at;

 private:
  float* section(std::uint64_t offset, std::int64_t elements) {
    std::byte* start = record_ + offset;
    const std::uint64_t bytes = static_cast<std::uint64_t>(elements) * sizeof(float);
    std::memset(start + bytes, 0, (kAlign - bytes % kAlign) % kAlign);
    return reinterpret_cast<float*>(start);
  }

  std::byte* record_;
};

std::int32_t as_int(std::int64_t value) { return static_cast<std::int32_t>(value); }

// Shared by the block's SE and the one on its own.
void check_squeeze_excite(const std::string& op, const std::string& prefix, const Weight& reduce_w,
                          const Weight& reduce_b, const Weight& expand_w, const Weight& expand_b,
                          std::int64_t channels) {
  const std::string reduce = prefix + "reduce_weight";
  const std::string expand = prefix + "expand_weight";
  check_rank4(op, reduce.c_str(), reduce_w);
  const std::int64_t c_se = reduce_w.shape[0];
  check_weight(op, reduce.c_str(), reduce_w, {c_se, channels, 1, 1});
  check_weight(op, expand.c_str(), expand_w, {channels, c_se, 1, 1});
  check_bias(op, (prefix + "reduce_bias").c_str(), reduce_b, c_se);
  check_bias(op, (prefix + "expand_bias").c_str(), expand_b, channels);
}

}  // namespace

RecordHeader new_header(RecordKind kind) {
  RecordHeader header;
  std::memset(static_cast<void*>(&header), 0, sizeof(header));  // the padding too
  std::memcpy(header.magic, kRecordMagic, sizeof(header.magic));
  header.version = kRecordVersion;
  header.kind = kind;
  header.groups = 1;
  header.window = Window();
  return header;
}

std::int64_t product_elements(std::int64_t k, std::int64_t n) {
  const std::int64_t rest = n % kBlock;
  const std::int64_t tail = rest == 0 ? 0 : (rest <= kHalfBlock ? kHalfBlock : kBlock);
  return (n / kBlock * kBlock + tail) * k;
}

RecordLayout layout(const RecordHeader& h) {
  RecordLayout at;
  std::uint64_t offset = kHeaderBytes;
  auto section = [&offset, &h](bool present, std::int64_t elements) {
    const std::uint64_t start = offset;
    if (present) {
      const auto bytes = static_cast<std::uint64_t>(elements * element_bytes(h.element));
      offset += (bytes + kAlign - 1) / kAlign * kAlign;
    }
    return start;
  };
  const std::int64_t taps = std::int64_t{h.window.kernel_h} * h.window.kernel_w;
  const bool separable = h.kind == RecordKind::kSeparable;
  at.expand_w = section(h.has_expand != 0, product_elements(h.c_in, h.c_mid));
  at.expand_b = section(h.has_expand != 0, round_up(h.c_mid, kBlock));
  at.depthwise_w = section(separable, round_up(h.c_mid, kBlock) * taps);
  at.depthwise_b = section(separable, round_up(h.c_mid, kBlock));
  at.se_reduce_w = section(h.has_se != 0, product_elements(h.c_mid, h.c_se));
  at.se_reduce_b = section(h.has_se != 0, round_up(h.c_se, kBlock));
  at.se_expand_w = section(h.has_se != 0, product_elements(h.c_se, h.c_mid));
  at.se_expand_b = section(h.has_se != 0, round_up(h.c_mid, kBlock));
  const std::int64_t n = h.c_out / h.groups;
  if (h.kind == RecordKind::kConv2d) {
    at.project_w = section(true, product_elements(taps * (h.c_in / h.groups), n) * h.groups);
    at.project_b = section(true, round_up(n, kBlock) * h.groups);
  } else {
    const std::int64_t k = h.kind == RecordKind::kPointwise ? h.c_in : h.c_mid;
    at.project_w = section(h.has_project != 0, product_elements(k, h.c_out));
    at.project_b = section(h.has_project != 0, round_up(h.c_out, kBlock));
  }
  at.bytes = offset;
  return at;
}

namespace {

// The general form: a depthwise convolution is one as well.
RecordHeader conv2d_header(const Conv2dSpec& spec) {
  check_rank4(spec.op, "weight", spec.weight);
  const std::vector<std::int64_t>& shape = spec.weight.shape;
  const std::int64_t c_out = shape[0];
  const std::int64_t groups = spec.groups;
  check(groups >= 1 && groups <= c_out && c_out % groups == 0, spec.op, ": groups must divide the ",
        c_out, " output channels, got ", groups);
  const std::int64_t c_in = shape[1] * groups;
  check(c_in <= kMaxChannels, spec.op, ": weight must have at most ", kMaxChannels,
        " input channels, got ", c_in);
  check_bias(spec.op, "bias", spec.bias, c_out);
  check_activation(spec.op, "activation", spec.activation);
  Window window = spec.window;
  window.kernel_h = as_int(shape[2]);
  window.kernel_w = as_int(shape[3]);
  check_window(spec.op, window);

  const bool unpadded = window.same != 0 || (window.pad_top == 0 && window.pad_left == 0 &&
                                             window.pad_bottom == 0 && window.pad_right == 0);
  const bool pointwise = groups == 1 && shape[2] == 1 && shape[3] == 1 && window.stride_h == 1 &&
                         window.stride_w == 1 && unpadded;
  RecordHeader header = new_header(pointwise ? RecordKind::kPointwise : RecordKind::kConv2d);
  header.c_in = as_int(c_in);
  header.c_out = as_int(c_out);
  header.groups = as_int(groups);
  header.has_project = 1;
  header.window = pointwise ? Window() : window;
  header.activation = spec.activation;
  return header;
}

void pack_conv2d(const Conv2dSpec& spec, bool depthwise_apart, const Allocate& allocate) {
  const RecordHeader header = conv2d_header(spec);
  const std::vector<std::int64_t>& shape = spec.weight.shape;
  const std::int64_t groups = spec.groups;
  if (depthwise_apart && groups == header.c_in && groups == header.c_out && groups > 1) {
    SeparableSpec depthwise;
    depthwise.op = spec.op;
    depthwise.depthwise_weight = spec.weight;
    depthwise.depthwise_bias = spec.bias;
    depthwise.window = header.window;
    depthwise.depthwise_activation = spec.activation;
    pack(depthwise, allocate);
    return;
  }
  const std::int64_t n = shape[0] / groups;
  Writer writer(spec.op, header, allocate);
  writer.product(writer.at.project_w, spec.weight, n, shape[1], shape[2] * shape[3], groups);
  writer.bias(writer.at.project_b, spec.bias, n, groups);
}

}  // namespace

void pack_product(const float* w, std::int64_t n, std::int64_t depth, std::int64_t taps,
                  float* out) {
  const std::int64_t k = depth * taps;
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t outputs = std::min(n - first, kBlock);
    const bool half = outputs <= kHalfBlock;
    (half ? pack_block<kHalfBlock> : pack_block<kBlock>)(w + first * k, outputs, depth, taps, out);
    out += k * (half ? kHalfBlock : kBlock);
  }
}

void pack_taps(const float* w, std::int64_t channels, std::int64_t taps, float* out) {
  for (std::int64_t first = 0; first < channels; first += kBlock) {
    const std::int64_t block = std::min(channels - first, kBlock);
    pack_block<kBlock>(w + first * taps, block, taps, 1, out + first * taps);
  }
}

Shape conv2d_output(const Conv2dSpec& spec, const Shape& x) {
  const RecordHeader header = conv2d_header(spec);
  Record record{};
  record.header = &header;
  return record_output(spec.op, record, x);
}

void pack(const Conv2dSpec& spec, const Allocate& allocate) { pack_conv2d(spec, true, allocate); }

void pack_grouped(const Conv2dSpec& spec, const Allocate& allocate) {
  pack_conv2d(spec, false, allocate);
}

void pack(const SeparableSpec& spec, const Allocate& allocate) {
  const std::string& op = spec.op;
  check_rank4(op, "depthwise_weight", spec.depthwise_weight);
  const std::int64_t c_mid = spec.depthwise_weight.shape[0];
  Window window = spec.window;
  window.kernel_h = as_int(spec.depthwise_weight.shape[2]);
  window.kernel_w = as_int(spec.depthwise_weight.shape[3]);
  check_weight(op, "depthwise_weight", spec.depthwise_weight,
               {c_mid, 1, window.kernel_h, window.kernel_w});
  check_bias(op, "depthwise_bias", spec.depthwise_bias, c_mid);
  check_no_bias(op, "expand_weight", spec.expand_weight, "expand_bias", spec.expand_bias);
  check_no_bias(op, "project_weight", spec.project_weight, "project_bias", spec.project_bias);
  check_no_bias(op, "se_reduce_weight", spec.se_reduce_weight, "se_reduce_bias",
                spec.se_reduce_bias);
  check_no_bias(op, "se_expand_weight", spec.se_expand_weight, "se_expand_bias",
                spec.se_expand_bias);
  check_activation(op, "expand_activation", spec.expand_activation);
  check_activation(op, "depthwise_activation", spec.depthwise_activation);
  check_activation(op, "se_activation", spec.se_activation);
  check_activation(op, "se_gate", spec.se_gate);
  check_activation(op, "project_activation", spec.project_activation);
  check_window(op, window);

  std::int64_t c_in = c_mid;
  if (spec.expand_weight) {
    check_rank4(op, "expand_weight", spec.expand_weight);
    c_in = spec.expand_weight.shape[1];
    check_weight(op, "expand_weight", spec.expand_weight, {c_mid, c_in, 1, 1});
    check_bias(op, "expand_bias", spec.expand_bias, c_mid);
  }
  std::int64_t c_se = 0;
  if (spec.se_reduce_weight || spec.se_expand_weight) {
    check_squeeze_excite(op, "se_", spec.se_reduce_weight, spec.se_reduce_bias,
                         spec.se_expand_weight, spec.se_expand_bias, c_mid);
    c_se = spec.se_reduce_weight.shape[0];
  }
  std::int64_t c_out = c_mid;
  if (spec.project_weight) {
    check_rank4(op, "project_weight", spec.project_weight);
    c_out = spec.project_weight.shape[0];
    check_weight(op, "project_weight", spec.project_weight, {c_out, c_mid, 1, 1});
    check_bias(op, "project_bias", spec.project_bias, c_out);
  }
  if (spec.residual) {
    check(window.stride_h == 1 && window.stride_w == 1, op,
          ": residual must go with stride (1, 1), got (", window.stride_h, ", ", window.stride_w,
          ")");
    check(c_in == c_out, op, ": residual must go with equal input and output channels, got ", c_in,
          " and ", c_out);
    check(static_cast<bool>(spec.project_weight), op, ": residual must go with a projection");
  }

  RecordHeader header = new_header(RecordKind::kSeparable);
  header.c_in = as_int(c_in);
  header.c_mid = as_int(c_mid);
  header.c_out = as_int(c_out);
  header.c_se = as_int(c_se);
  header.has_expand = spec.expand_weight ? 1 : 0;
  header.has_se = c_se > 0 ? 1 : 0;
  header.has_project = spec.project_weight ? 1 : 0;
  header.residual = spec.residual ? 1 : 0;
  header.window = window;
  header.expand_activation = spec.expand_activation;
  header.depthwise_activation = spec.depthwise_activation;
  header.se_activation = spec.se_activation;
  header.se_gate = spec.se_gate;
  header.activation = spec.project_activation;
  Writer writer(op, header, allocate);
  const RecordLayout& at = writer.at;
  if (spec.expand_weight) {
    writer.product(at.expand_w, spec.expand_weight, c_mid, c_in);
    writer.bias(at.expand_b, spec.expand_bias, c_mid);
  }
  writer.taps(at.depthwise_w, spec.depthwise_weight, c_mid,
              std::int64_t{window.kernel_h} * window.kernel_w);
  writer.bias(at.depthwise_b, spec.depthwise_bias, c_mid);
  if (c_se > 0) {
    writer.product(at.se_reduce_w, spec.se_reduce_weight, c_se, c_mid);
    writer.bias(at.se_reduce_b, spec.se_reduce_bias, c_se);
    writer.product(at.se_expand_w, spec.se_expand_weight, c_mid, c_se);
    writer.bias(at.se_expand_b, spec.se_expand_bias, c_mid);
  }
  if (spec.project_weight) {
    writer.product(at.project_w, spec.project_weight, c_out, c_mid);
    writer.bias(at.project_b, spec.project_bias, c_out);
  }
}

void pack(const SqueezeExciteSpec& spec, const Allocate& allocate) {
  check_rank4(spec.op, "reduce_weight", spec.reduce_weight);
  const std::int64_t channels = spec.reduce_weight.shape[1];
  check_squeeze_excite(spec.op, "", spec.reduce_weight, spec.reduce_bias, spec.expand_weight,
                       spec.expand_bias, channels);
  check_activation(spec.op, "activation", spec.activation);
  check_activation(spec.op, "gate", spec.gate);
  const std::int64_t c_se = spec.reduce_weight.shape[0];
  RecordHeader header = new_header(RecordKind::kSqueezeExcite);
  header.c_in = header.c_mid = header.c_out = as_int(channels);
  header.c_se = as_int(c_se);
  header.has_se = 1;
  header.se_activation = spec.activation;
  header.se_gate = spec.gate;
  Writer writer(spec.op, header, allocate);
  writer.product(writer.at.se_reduce_w, spec.reduce_weight, c_se, channels);
  writer.bias(writer.at.se_reduce_b, spec.reduce_bias, c_se);
  writer.product(writer.at.se_expand_w, spec.expand_weight, channels, c_se);
  writer.bias(writer.at.se_expand_b, spec.expand_bias, channels);
}

void pack(const GlobalPoolSpec& spec, const Allocate& allocate) {
  check(spec.channels >= 1 && spec.channels <= kMaxChannels, spec.op,
        ": channels must be from 1 to ", kMaxChannels, ", got ", spec.channels);
  RecordHeader header = new_header(RecordKind::kGlobalPool);
  header.c_in = header.c_mid = header.c_out = as_int(spec.channels);
  Writer(spec.op, header, allocate);
}

void pack(const MaxPoolSpec& spec, const Allocate& allocate) {
  check(spec.channels >= 1 && spec.channels <= kMaxChannels, spec.op,
        ": channels must be from 1 to ", kMaxChannels, ", got ", spec.channels);
  const Window& w = spec.window;
  check_window(spec.op, w);
  const bool covered = w.same != 0 || (std::max(w.pad_top, w.pad_bottom) <= w.kernel_h / 2 &&
                                       std::max(w.pad_left, w.pad_right) <= w.kernel_w / 2);
  check(covered, spec.op, ": padding must be at most half of the kernel, got (", w.pad_top, ", ",
        w.pad_left, ", ", w.pad_bottom, ", ", w.pad_right, ") for a kernel of ", w.kernel_h, " x ",
        w.kernel_w);
  RecordHeader header = new_header(RecordKind::kMaxPool);
  header.c_in = header.c_mid = header.c_out = as_int(spec.channels);
  header.window = w;
  Writer(spec.op, header, allocate);
}

void pack(const ChannelShuffleSpec& spec, const Allocate& allocate) {
  check(spec.channels >= 1 && spec.channels <= kMaxChannels, spec.op,
        ": channels must be from 1 to ", kMaxChannels, ", got ", spec.channels);
  check(spec.groups >= 1 && spec.channels % spec.groups == 0, spec.op, ": groups must divide the ",
        spec.channels, " channels, got ", spec.groups);
  RecordHeader header = new_header(RecordKind::kChannelShuffle);
  header.c_in = header.c_mid = header.c_out = as_int(spec.channels);
  header.groups = as_int(spec.groups);
  Writer(spec.op, header, allocate);
}

}  // namespace weebill
