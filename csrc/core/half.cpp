// Networks in float16: the conversion of records, and of what goes into a run and comes out of it.
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

bool begins_with_float16(Packed packed) {
  if (packed.data == nullptr || packed.bytes < sizeof(RecordHeader)) return false;
  ElementType element;
  std::memcpy(&element, packed.data + offsetof(RecordHeader, element), sizeof element);
  return element == ElementType::kFloat16;
}

RecordHeader half_header(const Record& record) {
  RecordHeader header = *record.header;
  header.element = ElementType::kFloat16;
  header.bytes = kHeaderBytes;
  if (record.parts.empty()) {
    header.bytes = layout(header).bytes;
  } else {
    for (const Record& part : record.parts) header.bytes += half_header(part).bytes;
  }
  return header;
}

// Where each section begins, and the last ends.
std::vector<std::uint64_t> bounds(const RecordHeader& header) {
  const RecordLayout at = layout(header);
  return {at.expand_w,    at.expand_b,    at.depthwise_w, at.depthwise_b,
          at.se_reduce_w, at.se_reduce_b, at.se_expand_w, at.se_expand_b,
          at.project_w,   at.project_b,   at.bytes};
}

// `to` is zeros.
void write_half(const Record& record, std::byte* to) {
  const RecordHeader header = half_header(record);
  std::memcpy(to, &header, sizeof header);
  std::uint64_t at = kHeaderBytes;
  for (const Record& part : record.parts) {
    write_half(part, to + at);
    at += half_header(part).bytes;
  }
  if (!record.parts.empty()) return;
  const auto* const from = reinterpret_cast<const std::byte*>(record.header);
  const std::vector<std::uint64_t> source = bounds(*record.header), target = bounds(header);
  for (std::size_t i = 0; i + 1 < source.size(); ++i) {
    // With the zeros that a section ends in.
    const auto* const x = reinterpret_cast<const float*>(from + source[i]);
    auto* const y = reinterpret_cast<Half*>(to + target[i]);
    for (std::uint64_t j = 0; j < (source[i + 1] - source[i]) / sizeof(float); ++j) {
      y[j] = to_half(x[j]);
      check(!std::isinf(to_float(y[j])) || std::isinf(x[j]), "to_float16: weights must be at most ",
            kHalfMax, " in magnitude, got ", x[j]);
    }
  }
}

const HalfKernelTable& usable_kernels(const std::string& op) {
  const HalfKernelTable* table = half_kernels();
  if (table == nullptr) {
    throw NotSupported(concat(
        op,
        ": records must be of float32 on an instruction set without float16 arithmetic (armv8.2's "
        "asimdhp), got float16 on '",
        isa(), "'"));
  }
  return *table;
}

RunOf<Half> half_run(const std::string& op) {
  const Caches caches = machine_caches();
  return {usable_kernels(op),
          {2 * caches.l1d_bytes, 2 * caches.l2_bytes, caches.banked_l2, caches.foresees_tiles,
           caches.slow_l3},
          max_threads()};
}

}  // namespace

bool has_float16() { return half_kernels() != nullptr; }

bool is_float16(const std::string& op, Packed packed) {
  return parse(op, packed).front().header->element == ElementType::kFloat16;
}

void to_float16(Packed packed, const Allocate& allocate) {
  const std::string op = "to_float16";
  const std::vector<Record> records = parse(op, packed);
  std::uint64_t bytes = 0;
  for (const Record& record : records) bytes += half_header(record).bytes;
  std::byte* to = allocate(bytes);
  if (records.front().header->element == ElementType::kFloat16) {
    std::memcpy(to, packed.data, bytes);
    return;
  }
  std::memset(to, 0, bytes);
  for (const Record& record : records) {
    write_half(record, to);
    to += half_header(record).bytes;
  }
}

void run(const std::string& op, const HalfTensorView& x, Packed packed, Half* y) {
  output_shape(op, {x.n, x.c, x.h, x.w}, packed);  // what is damaged is said to be
  run_with<Half>(half_run(op), op, x, packed, [y](const Shape& /*shape*/) { return y; });
}

void run(const std::string& op, const TensorView& x, Packed packed, float* y) {
  run(op, x, packed, [y](const Shape& /*shape*/) { return y; });
}

void run(const std::string& op, const TensorView& x, Packed packed, const Output& output) {
  const Run floats = {kernels(), machine_caches(), max_threads()};
  if (!begins_with_float16(packed)) {
    run_with(floats, op, x, packed, output);
    return;
  }
  const Shape out = output_shape(op, {x.n, x.c, x.h, x.w}, packed);
  const RunOf<Half> halves = half_run(op);
  float* const y = output(out);
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t size = x.n * x.c * x.h * x.w, out_size = out.n * out.c * out.h * out.w;
  // Planes stay planes: a convolution in front reads any layout, and all others copy it in float16.
  const bool planes = x.stride_w == 1 && x.stride_h == x.w && x.stride_c == x.h * x.w &&
                      (x.n == 1 || x.stride_n == x.c * x.h * x.w);
  const float* from = planes ? x.data : nhwc_data(Run{floats.kernels, floats.caches, 1}, x, scope);
  Half* rounded = scope.take<Half>(size);
  halves.kernels.narrow_f16({from, rounded, size});
  HalfTensorView view = {rounded, x.n, x.c, x.h, x.w, x.h * x.w * x.c, 1, x.w * x.c, x.c};
  if (planes) {
    view.stride_c = x.stride_c;
    view.stride_h = x.stride_h;
    view.stride_w = x.stride_w;
  }
  Half* result = scope.take<Half>(out_size);
  run_with<Half>(halves, op, view, packed, [result](const Shape& /*shape*/) { return result; });
  halves.kernels.widen_f16({result, y, out_size});
}

}  // namespace weebill
