// Units of several blocks: records inside of a record.
#include <algorithm>
#include <cstring>

#include "core/record.h"
#include "core/status.h"
#include "kernels/args.h"

namespace weebill {
namespace {

using Bytes = std::vector<std::byte>;

std::int32_t as_int(std::int64_t value) { return static_cast<std::int32_t>(value); }

Packed view(const Bytes& record) { return {record.data(), record.size()}; }

const RecordHeader& header_of(Packed record) {
  return *reinterpret_cast<const RecordHeader*>(record.data);
}

void join(RecordHeader header, const std::vector<Packed>& parts, const Allocate& allocate) {
  header.bytes = kHeaderBytes;
  for (const Packed& part : parts) header.bytes += part.bytes;
  header.parts = static_cast<std::int16_t>(parts.size());
  std::byte* to = allocate(header.bytes);
  std::memset(to, 0, kHeaderBytes);
  std::memcpy(to, &header, sizeof(header));
  to += kHeaderBytes;
  for (const Packed& part : parts) to = std::copy_n(part.data, part.bytes, to);
}

// Messages name an argument as the unit calls it.
Bytes pack_as(const std::string& prefix, const SeparableSpec& spec) {
  try {
    return pack(spec);
  } catch (const ValueError& error) {
    std::string text = error.what();
    const std::string start = spec.op + ": ";
    if (text.compare(0, start.size(), start) == 0) text.insert(start.size(), prefix);
    throw ValueError(text);
  }
}

void check_shape(const std::string& op, const char* name, const Weight& weight, std::int64_t rows,
                 std::int64_t columns) {
  check(weight.data != nullptr, op, ": ", name, " must be given");
  const std::vector<std::int64_t>& s = weight.shape;
  check(s.size() == 4 && (rows < 0 || s[0] == rows) && s[1] == columns && s[2] == 1 && s[3] == 1,
        op, ": ", name, " must be (", rows < 0 ? "channels" : std::to_string(rows), ", ", columns,
        ", 1, 1), got a weight of ", s.size(), " dimensions",
        s.size() == 4 ? concat(", (", s[0], ", ", s[1], ", ", s[2], ", ", s[3], ")") : "");
}

void check_groups(const std::string& op, const char* name, std::int64_t groups, const char* of,
                  std::int64_t channels) {
  check(groups >= 1 && channels % groups == 0, op, ": ", name, " must divide the ", channels, " ",
        of, ", got ", groups);
}

// `shortcut` may be empty.
void unit_of(const std::string& op, Packed branch, Packed shortcut, const Allocate& allocate) {
  std::vector<Packed> parts = {branch};
  const RecordHeader& main = header_of(branch);
  RecordHeader header = new_header(RecordKind::kShuffleUnit);
  check(main.c_out <= kMaxChannels / 2, op, ": project_weight must have at most ", kMaxChannels / 2,
        " output channels, got ", main.c_out);
  header.c_out = 2 * main.c_out;
  if (shortcut.bytes == 0) {
    check(main.c_in == main.c_out, op, ": project_weight must give ", main.c_in,
          " channels as the branch takes, for a unit without a shortcut branch, got ", main.c_out);
    header.c_in = header.c_out;
  } else {
    const RecordHeader& other = header_of(shortcut);
    check(other.c_in == main.c_in, op, ": shortcut_depthwise_weight must have ", main.c_in,
          " channels as the branch's input, got ", other.c_in);
    check(other.c_out == main.c_out, op, ": shortcut_project_weight must give ", main.c_out,
          " channels as the branch, got ", other.c_out);
    header.c_in = main.c_in;
    parts.push_back(shortcut);
  }
  join(header, parts, allocate);
}

}  // namespace

void pack(const ShuffleUnitSpec& spec, const Allocate& allocate) {
  SeparableSpec branch = spec.branch, shortcut = spec.shortcut;
  branch.op = shortcut.op = spec.op;
  const bool has_shortcut = static_cast<bool>(shortcut.depthwise_weight);
  check(has_shortcut || !(shortcut.project_weight || shortcut.depthwise_bias), spec.op,
        ": shortcut_depthwise_weight must be given where another shortcut weight is");
  const Bytes main = pack(branch);
  const Bytes other = has_shortcut ? pack_as("shortcut_", shortcut) : Bytes();
  unit_of(spec.op, view(main), view(other), allocate);
}

void pack_shuffle_unit(Packed branch, Packed shortcut, const Allocate& allocate) {
  const std::string op = "shuffle_unit";
  auto check_branch = [&op](const char* name, Packed packed) {
    const std::vector<Record> records = parse(op, packed);
    check(records.size() == 1 && records[0].header->kind == RecordKind::kSeparable, op, ": ", name,
          " must be one separable block, got ", records.size(), " records or another kind");
  };
  check_branch("branch", branch);
  if (shortcut.bytes > 0) check_branch("shortcut", shortcut);
  unit_of(op, branch, shortcut, allocate);
}

void pack(const ShuffleUnitV1Spec& spec, const Allocate& allocate) {
  using Shortcut = ShuffleUnitV1Spec::Shortcut;
  const std::string& op = spec.op;
  check(spec.depthwise_weight.data != nullptr && spec.depthwise_weight.shape.size() == 4, op,
        ": depthwise_weight must be given with 4 dimensions");
  const std::int64_t c_mid = spec.depthwise_weight.shape[0];
  const std::int64_t kernel_h = spec.depthwise_weight.shape[2];
  const std::int64_t kernel_w = spec.depthwise_weight.shape[3];
  check(c_mid >= 1 && c_mid <= kMaxChannels && kernel_h >= 1 && kernel_w >= 1 &&
            kernel_h <= kMaxWindow && kernel_w <= kMaxWindow,
        op, ": depthwise_weight must have from 1 to ", kMaxChannels,
        " channels and a window up to ", kMaxWindow, ", got ", c_mid, " and ", kernel_h, " x ",
        kernel_w);
  check_groups(op, "expand_groups", spec.expand_groups, "depthwise channels", c_mid);
  check_groups(op, "groups", spec.shuffle_groups, "depthwise channels", c_mid);
  check_groups(op, "project_groups", spec.project_groups, "depthwise channels", c_mid);
  check(spec.expand_weight.data != nullptr && spec.expand_weight.shape.size() == 4, op,
        ": expand_weight must be given with 4 dimensions");
  check_shape(op, "expand_weight", spec.expand_weight, c_mid, spec.expand_weight.shape[1]);
  const std::int64_t c_in = spec.expand_weight.shape[1] * spec.expand_groups;
  check_shape(op, "project_weight", spec.project_weight, -1, c_mid / spec.project_groups);
  const std::int64_t c_branch = spec.project_weight.shape[0];
  check_groups(op, "project_groups", spec.project_groups, "output channels", c_branch);

  const bool add = spec.shortcut == Shortcut::kAdd, pool = spec.shortcut == Shortcut::kConcat;
  check(!add || c_in == c_branch, op, ": project_weight must give ", c_in,
        " channels where x is added, got ", c_branch);
  const std::int64_t c_out = pool ? c_in + c_branch : c_branch;
  check(c_in <= kMaxChannels && c_out <= kMaxChannels, op, ": project_weight must give at most ",
        kMaxChannels, " channels of output, got ", c_out);

  // Depthwise channel p of the unshuffled order is number i * groups + j of the shuffled one.
  const std::int64_t groups = spec.shuffle_groups, per_group = c_mid / groups;
  const std::int64_t taps = kernel_h * kernel_w;
  std::vector<float> taps_in_order(static_cast<std::size_t>(c_mid * taps));
  std::vector<float> bias_in_order(static_cast<std::size_t>(c_mid));
  for (std::int64_t p = 0; p < c_mid; ++p) {
    const std::int64_t c = p % per_group * groups + p / per_group;
    std::copy_n(spec.depthwise_weight.data + c * taps, taps, &taps_in_order[p * taps]);
    if (spec.depthwise_bias) bias_in_order[p] = spec.depthwise_bias.data[c];
  }
  SeparableSpec depthwise;
  depthwise.op = op;
  depthwise.depthwise_weight = {taps_in_order.data(), spec.depthwise_weight.shape};
  if (spec.depthwise_bias) {
    depthwise.depthwise_bias = {bias_in_order.data(), spec.depthwise_bias.shape};
  }
  depthwise.window = spec.window;
  depthwise.depthwise_activation = spec.depthwise_activation;

  Conv2dSpec expand;
  expand.op = op;
  expand.weight = spec.expand_weight;
  expand.bias = spec.expand_bias;
  expand.groups = spec.expand_groups;
  expand.activation = spec.expand_activation;
  Conv2dSpec project;
  project.op = op;
  project.weight = spec.project_weight;
  project.bias = spec.project_bias;
  project.groups = spec.project_groups;

  auto grouped = [](const Conv2dSpec& conv) {
    Bytes record;
    pack_grouped(conv, [&record](std::size_t bytes) {
      record.resize(bytes);
      return record.data();
    });
    return record;
  };
  std::vector<Bytes> parts = {grouped(expand), pack(depthwise), grouped(project)};
  if (pool) {
    const std::vector<float> mean(static_cast<std::size_t>(c_in * taps),
                                  1.0f / static_cast<float>(taps));
    SeparableSpec average;
    average.op = op;
    average.depthwise_weight = {mean.data(), {c_in, 1, kernel_h, kernel_w}};
    average.window = spec.window;
    parts.push_back(pack(average));
  }
  RecordHeader header = new_header(RecordKind::kShuffleUnitV1);
  header.c_in = as_int(c_in);
  header.c_out = as_int(c_out);
  header.groups = as_int(groups);
  header.residual = add ? 1 : 0;
  header.activation = spec.activation;
  std::vector<Packed> views;
  for (const Bytes& part : parts) views.push_back(view(part));
  join(header, views, allocate);
}

}  // namespace weebill
