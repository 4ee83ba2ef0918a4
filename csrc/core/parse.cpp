// Bytes to records: nothing that the rest of the core takes for granted is left unchecked here.
#include <algorithm>
#include <cstring>

#include "core/record.h"
#include "core/status.h"
#include "kernels/args.h"

namespace weebill {
namespace {

bool in_range(std::int64_t value, std::int64_t low, std::int64_t high) {
  return value >= low && value <= high;
}

bool valid_window(const Window& w) {
  constexpr std::int64_t kMost = kMaxWindow;
  return in_range(w.kernel_h, 1, kMost) && in_range(w.kernel_w, 1, kMost) &&
         in_range(w.stride_h, 1, kMost) && in_range(w.stride_w, 1, kMost) &&
         in_range(w.dilation_h, 1, kMost) && in_range(w.dilation_w, 1, kMost) &&
         in_range(w.pad_top, 0, kMost) && in_range(w.pad_left, 0, kMost) &&
         in_range(w.pad_bottom, 0, kMost) && in_range(w.pad_right, 0, kMost) &&
         in_range(w.same, 0, 1);
}

bool valid_activation(Activation a) {
  return in_range(static_cast<std::int32_t>(a), 0,
                  static_cast<std::int32_t>(activation_names().size()) - 1);
}

bool valid_flag(std::int32_t flag) { return flag == 0 || flag == 1; }

// Weights of at most 2^36 elements: no size computed from the header wraps round.
bool valid_sizes(const RecordHeader& h) {
  const double taps = static_cast<double>(h.window.kernel_h) * h.window.kernel_w;
  const double widest = std::max({h.c_in, h.c_mid, h.c_out, h.c_se}) + 2.0 * kBlock;
  return taps * widest * widest <= static_cast<double>(std::int64_t{1} << 36);
}

bool valid_header(const RecordHeader& h) {
  constexpr std::int64_t kMost = kMaxChannels;
  const bool numbers = in_range(h.c_in, 1, kMost) && in_range(h.c_out, 1, kMost) &&
                       in_range(h.c_mid, 0, kMost) && in_range(h.c_se, 0, kMost) &&
                       in_range(h.groups, 1, kMost) && valid_flag(h.has_expand) &&
                       valid_flag(h.has_se) && valid_flag(h.has_project) &&
                       valid_flag(h.residual) && valid_window(h.window);
  const bool activations = valid_activation(h.expand_activation) &&
                           valid_activation(h.depthwise_activation) &&
                           valid_activation(h.se_activation) && valid_activation(h.se_gate) &&
                           valid_activation(h.activation);
  const bool element = h.element == ElementType::kFloat32 || h.element == ElementType::kFloat16;
  if (!numbers || !activations || !element || !valid_sizes(h)) return false;
  if ((h.has_se != 0) != (h.c_se > 0)) return false;
  const bool plain = h.has_expand == 0 && h.has_se == 0 && h.residual == 0;
  switch (h.kind) {
    case RecordKind::kConv2d:
      return plain && h.has_project == 1 && h.c_in % h.groups == 0 && h.c_out % h.groups == 0;
    case RecordKind::kPointwise:
      return plain && h.has_project == 1 && h.groups == 1;
    case RecordKind::kSeparable:
      if (h.c_mid < 1 || h.groups != 1) return false;
      if (h.has_expand == 0 && h.c_in != h.c_mid) return false;
      if (h.has_project == 0 && h.c_out != h.c_mid) return false;
      return h.residual == 0 || (h.has_project == 1 && h.c_in == h.c_out &&
                                 h.window.stride_h == 1 && h.window.stride_w == 1);
    case RecordKind::kSqueezeExcite:
      return h.has_expand == 0 && h.has_project == 0 && h.residual == 0 && h.has_se == 1 &&
             h.c_in == h.c_mid && h.c_mid == h.c_out && h.groups == 1;
    case RecordKind::kGlobalPool:
    case RecordKind::kMaxPool:
      return plain && h.has_project == 0 && h.c_in == h.c_out && h.groups == 1;
    case RecordKind::kChannelShuffle:
      return plain && h.has_project == 0 && h.c_in == h.c_out && h.c_in % h.groups == 0;
    case RecordKind::kShuffleUnit:
      return plain && h.has_project == 0 && h.groups == 1;
    case RecordKind::kShuffleUnitV1:
      return h.has_expand == 0 && h.has_se == 0 && h.has_project == 0;
  }
  return false;
}

// The records inside of a unit, against its header.
bool valid_parts(const Record& unit) {
  const RecordHeader& h = *unit.header;
  const std::size_t count = unit.parts.size();
  auto header = [&unit](std::size_t i) -> const RecordHeader& { return *unit.parts[i].header; };
  for (std::size_t i = 0; i < count; ++i) {
    if (header(i).element != h.element) return false;
  }
  if (h.kind == RecordKind::kShuffleUnit) {
    if (count < 1 || count > 2 || h.c_out % 2 != 0) return false;
    if (count == 1 && h.c_in != h.c_out) return false;
    for (std::size_t i = 0; i < count; ++i) {
      if (header(i).kind != RecordKind::kSeparable || header(i).c_out != h.c_out / 2) return false;
      if (header(i).c_in != (count == 1 ? h.c_in / 2 : h.c_in)) return false;
    }
    return true;
  }
  if (count < 3 || count > 4) return false;
  const RecordHeader &expand = header(0), &depthwise = header(1), &project = header(2);
  auto product = [](const RecordHeader& part) {
    const Window& w = part.window;
    return part.kind == RecordKind::kPointwise ||
           (part.kind == RecordKind::kConv2d && w.kernel_h == 1 && w.kernel_w == 1 &&
            w.stride_h == 1 && w.stride_w == 1 && w.same == 0 && w.pad_top == 0 &&
            w.pad_left == 0 && w.pad_bottom == 0 && w.pad_right == 0);
  };
  auto plain_depthwise = [](const RecordHeader& part) {
    return part.kind == RecordKind::kSeparable && part.has_expand == 0 && part.has_se == 0 &&
           part.has_project == 0;
  };
  if (!product(expand) || !plain_depthwise(depthwise) || !product(project)) return false;
  if (expand.c_in != h.c_in || expand.c_out != depthwise.c_in) return false;
  if (project.c_in != depthwise.c_out || depthwise.c_in % h.groups != 0) return false;
  if (count == 4) {
    return h.residual == 0 && plain_depthwise(header(3)) && header(3).c_in == h.c_in &&
           h.c_out == project.c_out + h.c_in;
  }
  return h.c_out == project.c_out && (h.residual == 0 || h.c_out == h.c_in);
}

std::vector<Record> parse_list(const std::string& op, Packed packed, bool inside_a_unit) {
  std::vector<Record> records;
  std::size_t at = 0;
  while (at < packed.bytes) {
    const std::size_t left = packed.bytes - at;
    check(left >= sizeof(RecordHeader), op, ": records must be whole, got ", left,
          " bytes where a header takes ", sizeof(RecordHeader));
    const std::byte* base = packed.data + at;
    const auto* header = reinterpret_cast<const RecordHeader*>(base);
    check(std::memcmp(header->magic, kRecordMagic, sizeof(header->magic)) == 0, op,
          ": records must be packed by this library, got other bytes at offset ", at);
    check(header->version == kRecordVersion, op, ": records must have version ", kRecordVersion,
          ", got ", header->version, "; pack the weights again");
    check(valid_header(*header), op,
          ": records must have a valid header, got a damaged one at offset ", at);
    if (is_unit(*header)) {
      check(!inside_a_unit && header->bytes > kHeaderBytes && header->bytes <= left &&
                header->bytes % 64 == 0,
            op, ": records must have a valid header, got a damaged unit at offset ", at);
      Record unit{};
      unit.header = header;
      unit.parts = parse_list(op, {base + kHeaderBytes, header->bytes - kHeaderBytes}, true);
      check(unit.parts.size() == static_cast<std::size_t>(header->parts) && valid_parts(unit), op,
            ": records must have parts that fit together, got a damaged unit at offset ", at);
      records.push_back(std::move(unit));
      at += header->bytes;
      continue;
    }
    const RecordLayout offsets = layout(*header);
    check(offsets.bytes == header->bytes && header->bytes <= left, op, ": records must hold ",
          offsets.bytes, " bytes at offset ", at, ", got ",
          std::min<std::uint64_t>(header->bytes, left));
    auto section = [base](std::uint64_t offset) { return Section{base + offset}; };
    records.push_back({header,
                       section(offsets.expand_w),
                       section(offsets.expand_b),
                       section(offsets.depthwise_w),
                       section(offsets.depthwise_b),
                       section(offsets.se_reduce_w),
                       section(offsets.se_reduce_b),
                       section(offsets.se_expand_w),
                       section(offsets.se_expand_b),
                       section(offsets.project_w),
                       section(offsets.project_b),
                       {}});
    at += header->bytes;
  }
  return records;
}

}  // namespace

std::vector<Record> parse(const std::string& op, Packed packed) {
  check(packed.data != nullptr && packed.bytes > 0, op, ": records must not be empty");
  check(reinterpret_cast<std::uintptr_t>(packed.data) % kRecordAlignment == 0, op,
        ": records must lie on a multiple of ", kRecordAlignment,
        " bytes; copy them to a new array");
  std::vector<Record> records = parse_list(op, packed, false);
  for (const Record& record : records) {
    check(record.header->element == records.front().header->element, op,
          ": records must all be of one type, got float32 and float16");
  }
  return records;
}

}  // namespace weebill
