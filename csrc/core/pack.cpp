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

// [block][k][width]: the layout of PointwiseArgs::w. `input` maps a packed input index to one of
// the weight's own order.
template <typename Input>
void pack_product(const float* w, std::int64_t n, std::int64_t k, Input input, float* out) {
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t width = n - first <= kHalfBlock ? kHalfBlock : kBlock;
    for (std::int64_t i = 0; i < k; ++i) {
      for (std::int64_t o = 0; o < width; ++o) {
        *out++ = first + o < n ? w[(first + o) * k + input(i)] : 0.0f;
      }
    }
  }
}

void pack_product(const float* w, std::int64_t n, std::int64_t k, float* out) {
  pack_product(w, n, k, [](std::int64_t i) { return i; }, out);
}

void pack_bias(const Weight& bias, std::int64_t n, float* out) {
  if (bias) std::memcpy(out, bias.data, static_cast<std::size_t>(n) * sizeof(float));
}

struct Writer {
  Writer(const std::string& op, RecordHeader header) : at(layout(header)) {
    check(at.bytes <= kMaxBytes, op, ": weights must take at most 2^38 bytes, got ", at.bytes);
    header.bytes = at.bytes;
    bytes.resize(at.bytes);  // zeros: the padding of biases and blocks
    std::memcpy(bytes.data(), &header, sizeof(header));
  }
  float* section(std::uint64_t offset) { return reinterpret_cast<float*>(bytes.data() + offset); }
  RecordLayout at;
  std::vector<std::byte> bytes;
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
  auto section = [&offset](bool present, std::int64_t elements) {
    const std::uint64_t start = offset;
    if (present) {
      const std::uint64_t bytes = static_cast<std::uint64_t>(elements) * sizeof(float);
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

std::vector<std::byte> pack_conv2d(const Conv2dSpec& spec, bool depthwise_apart) {
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
    return pack(depthwise);
  }
  Writer writer(spec.op, header);

  // Inputs are ordered (row, column, channel): the taps of an image row are contiguous, so a row
  // outside the image is a contiguous part that is left out.
  const std::int64_t depth = shape[1];
  const std::int64_t taps = shape[2] * shape[3];
  const std::int64_t n = shape[0] / groups;
  const std::int64_t k = taps * depth;
  auto input = [depth, taps](std::int64_t i) { return i % depth * taps + i / depth; };
  for (std::int64_t g = 0; g < groups; ++g) {
    pack_product(spec.weight.data + g * n * k, n, k, input,
                 writer.section(writer.at.project_w) + g * product_elements(k, n));
    if (spec.bias) {
      std::memcpy(writer.section(writer.at.project_b) + g * round_up(n, kBlock),
                  spec.bias.data + g * n, static_cast<std::size_t>(n) * sizeof(float));
    }
  }
  return std::move(writer.bytes);
}

}  // namespace

void pack_taps(const float* w, std::int64_t channels, std::int64_t taps, float* out) {
  for (std::int64_t first = 0; first < channels; first += kBlock) {
    for (std::int64_t t = 0; t < taps; ++t) {
      for (std::int64_t c = 0; c < kBlock; ++c) {
        *out++ = first + c < channels ? w[(first + c) * taps + t] : 0.0f;
      }
    }
  }
}

Shape conv2d_output(const Conv2dSpec& spec, const Shape& x) {
  const RecordHeader header = conv2d_header(spec);
  Record record{};
  record.header = &header;
  return record_output(spec.op, record, x);
}

std::vector<std::byte> pack(const Conv2dSpec& spec) { return pack_conv2d(spec, true); }

std::vector<std::byte> pack_grouped(const Conv2dSpec& spec) { return pack_conv2d(spec, false); }

std::vector<std::byte> pack(const SeparableSpec& spec) {
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
  Writer writer(spec.op, header);
  const RecordLayout& at = writer.at;
  if (spec.expand_weight) {
    pack_product(spec.expand_weight.data, c_mid, c_in, writer.section(at.expand_w));
    pack_bias(spec.expand_bias, c_mid, writer.section(at.expand_b));
  }
  pack_taps(spec.depthwise_weight.data, c_mid, std::int64_t{window.kernel_h} * window.kernel_w,
            writer.section(at.depthwise_w));
  pack_bias(spec.depthwise_bias, c_mid, writer.section(at.depthwise_b));
  if (c_se > 0) {
    pack_product(spec.se_reduce_weight.data, c_se, c_mid, writer.section(at.se_reduce_w));
    pack_bias(spec.se_reduce_bias, c_se, writer.section(at.se_reduce_b));
    pack_product(spec.se_expand_weight.data, c_mid, c_se, writer.section(at.se_expand_w));
    pack_bias(spec.se_expand_bias, c_mid, writer.section(at.se_expand_b));
  }
  if (spec.project_weight) {
    pack_product(spec.project_weight.data, c_out, c_mid, writer.section(at.project_w));
    pack_bias(spec.project_bias, c_out, writer.section(at.project_b));
  }
  return std::move(writer.bytes);
}

std::vector<std::byte> pack(const SqueezeExciteSpec& spec) {
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
  Writer writer(spec.op, header);
  pack_product(spec.reduce_weight.data, c_se, channels, writer.section(writer.at.se_reduce_w));
  pack_bias(spec.reduce_bias, c_se, writer.section(writer.at.se_reduce_b));
  pack_product(spec.expand_weight.data, channels, c_se, writer.section(writer.at.se_expand_w));
  pack_bias(spec.expand_bias, channels, writer.section(writer.at.se_expand_b));
  return std::move(writer.bytes);
}

std::vector<std::byte> pack(const GlobalPoolSpec& spec) {
  check(spec.channels >= 1 && spec.channels <= kMaxChannels, spec.op,
        ": channels must be from 1 to ", kMaxChannels, ", got ", spec.channels);
  RecordHeader header = new_header(RecordKind::kGlobalPool);
  header.c_in = header.c_mid = header.c_out = as_int(spec.channels);
  return std::move(Writer(spec.op, header).bytes);
}

std::vector<std::byte> pack(const MaxPoolSpec& spec) {
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
  return std::move(Writer(spec.op, header).bytes);
}

std::vector<std::byte> pack(const ChannelShuffleSpec& spec) {
  check(spec.channels >= 1 && spec.channels <= kMaxChannels, spec.op,
        ": channels must be from 1 to ", kMaxChannels, ", got ", spec.channels);
  check(spec.groups >= 1 && spec.channels % spec.groups == 0, spec.op, ": groups must divide the ",
        spec.channels, " channels, got ", spec.groups);
  RecordHeader header = new_header(RecordKind::kChannelShuffle);
  header.c_in = header.c_mid = header.c_out = as_int(spec.channels);
  header.groups = as_int(spec.groups);
  return std::move(Writer(spec.op, header).bytes);
}

}  // namespace weebill
