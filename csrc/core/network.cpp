// Lists of records: validation, shapes, and the run from record to record.
#include <algorithm>
#include <cstring>

#include "core/cpu.h"
#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 31;

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
  if (!numbers || !activations || !valid_sizes(h)) return false;
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
      return plain && h.has_project == 0 && h.c_in == h.c_out && h.groups == 1;
  }
  return false;
}

std::int64_t span(std::int64_t kernel, std::int64_t dilation) { return (kernel - 1) * dilation; }

std::int64_t output_size(std::int64_t size, std::int64_t pads, std::int64_t kernel,
                         std::int64_t dilation, std::int64_t stride) {
  const std::int64_t room = size + pads - span(kernel, dilation) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

std::string shape_text(const Shape& s) {
  return concat("(", s.n, ", ", s.c, ", ", s.h, ", ", s.w, ")");
}

bool has_window(const RecordHeader& h) {
  return h.kind == RecordKind::kConv2d || h.kind == RecordKind::kSeparable;
}

}  // namespace

Window resolve(const Window& window, std::int64_t h, std::int64_t w) {
  if (window.same == 0) return window;
  Window out = window;
  auto total = [](std::int64_t size, std::int64_t kernel, std::int64_t dilation,
                  std::int64_t stride) {
    const std::int64_t outputs = (size + stride - 1) / stride;
    return std::max<std::int64_t>((outputs - 1) * stride + span(kernel, dilation) + 1 - size, 0);
  };
  const std::int64_t rows = total(h, window.kernel_h, window.dilation_h, window.stride_h);
  const std::int64_t columns = total(w, window.kernel_w, window.dilation_w, window.stride_w);
  out.pad_top = static_cast<std::int32_t>(rows / 2);
  out.pad_bottom = static_cast<std::int32_t>(rows - rows / 2);
  out.pad_left = static_cast<std::int32_t>(columns / 2);
  out.pad_right = static_cast<std::int32_t>(columns - columns / 2);
  return out;
}

std::vector<Record> parse(const std::string& op, Packed packed) {
  check(packed.data != nullptr && packed.bytes > 0, op, ": records must not be empty");
  check(reinterpret_cast<std::uintptr_t>(packed.data) % kRecordAlignment == 0, op,
        ": records must lie on a multiple of ", kRecordAlignment,
        " bytes; copy them to a new array");
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
    const RecordLayout offsets = layout(*header);
    check(offsets.bytes == header->bytes && header->bytes <= left, op, ": records must hold ",
          offsets.bytes, " bytes at offset ", at, ", got ",
          std::min<std::uint64_t>(header->bytes, left));
    auto section = [base](std::uint64_t offset) {
      return reinterpret_cast<const float*>(base + offset);
    };
    records.push_back({header, section(offsets.expand_w), section(offsets.expand_b),
                       section(offsets.depthwise_w), section(offsets.depthwise_b),
                       section(offsets.se_reduce_w), section(offsets.se_reduce_b),
                       section(offsets.se_expand_w), section(offsets.se_expand_b),
                       section(offsets.project_w), section(offsets.project_b)});
    at += header->bytes;
  }
  return records;
}

Shape record_output(const std::string& op, const Record& record, const Shape& x) {
  const RecordHeader& h = *record.header;
  check(x.c == h.c_in, op, ": x must have ", h.c_in, " channels, got ", x.c);
  check(x.n >= 0 && x.h >= 1 && x.w >= 1, op,
        ": x must have a height and width of at least 1, got ", shape_text(x));
  check(x.n <= kMaxSize && x.h <= kMaxSize && x.w <= kMaxSize, op,
        ": x must have sizes of at most 2^31, got ", shape_text(x));
  Shape out = {x.n, h.c_out, x.h, x.w};
  if (h.kind == RecordKind::kGlobalPool) {
    out.h = out.w = 1;
  } else if (has_window(h)) {
    const Window w = resolve(h.window, x.h, x.w);
    out.h = output_size(x.h, std::int64_t{w.pad_top} + w.pad_bottom, w.kernel_h, w.dilation_h,
                        w.stride_h);
    out.w = output_size(x.w, std::int64_t{w.pad_left} + w.pad_right, w.kernel_w, w.dilation_w,
                        w.stride_w);
    check(out.h >= 1 && out.w >= 1, op,
          ": x must be at least as large as the window after padding, got ", shape_text(x),
          " for a kernel of ", w.kernel_h, " x ", w.kernel_w);
    check(h.residual == 0 || (out.h == x.h && out.w == x.w), op,
          ": padding must keep the size of x where a residual is added, got ", shape_text(x),
          " and an output of ", out.h, " x ", out.w);
  }
  const double elements = static_cast<double>(std::max<std::int64_t>(x.n, 1)) *
                          static_cast<double>(std::max({h.c_in, h.c_mid, h.c_out})) *
                          static_cast<double>(std::max(x.h, out.h)) *
                          static_cast<double>(std::max(x.w, out.w));
  check(elements <= static_cast<double>(kMaxElements), op,
        ": x must give tensors of at most 2^40 elements, got ", shape_text(x));
  return out;
}

Shape output_shape(const std::string& op, const Shape& x, Packed packed) {
  Shape shape = x;
  for (const Record& record : parse(op, packed)) shape = record_output(op, record, shape);
  return shape;
}

std::vector<std::int64_t> geometry(Packed packed) {
  std::vector<std::int64_t> numbers;
  for (const Record& record : parse("geometry", packed)) {
    const RecordHeader& h = *record.header;
    const Window w = has_window(h) ? h.window : Window();
    const bool pool = h.kind == RecordKind::kGlobalPool;
    const std::int64_t mode = pool ? 2 : (w.same != 0 ? 1 : 0);
    numbers.insert(
        numbers.end(),
        {h.c_out, w.stride_h, w.stride_w,
         std::int64_t{w.pad_top} + w.pad_bottom - span(w.kernel_h, w.dilation_h) - 1,
         std::int64_t{w.pad_left} + w.pad_right - span(w.kernel_w, w.dilation_w) - 1, mode});
  }
  return numbers;
}

std::int64_t multiply_adds(const Shape& x, Packed packed) {
  std::int64_t total = 0;
  Shape shape = x;
  for (const Record& record : parse("multiply_adds", packed)) {
    const RecordHeader& h = *record.header;
    const Shape out = record_output("multiply_adds", record, shape);
    const std::int64_t taps = std::int64_t{h.window.kernel_h} * h.window.kernel_w;
    const std::int64_t pixels = out.n * out.h * out.w;
    if (h.kind == RecordKind::kConv2d) total += pixels * taps * (h.c_in / h.groups) * h.c_out;
    if (h.kind == RecordKind::kPointwise) total += pixels * h.c_in * h.c_out;
    if (h.kind == RecordKind::kSeparable) {
      total += pixels * h.c_mid * (taps + (h.has_project != 0 ? h.c_out : 0));
      if (h.has_expand != 0) total += shape.n * shape.h * shape.w * h.c_in * h.c_mid;
    }
    if (h.has_se != 0) total += 2 * out.n * h.c_mid * h.c_se;
    shape = out;
  }
  return total;
}

namespace {

bool dense_nhwc(const TensorView& x) {
  return (x.c == 1 || x.stride_c == 1) && (x.w == 1 || x.stride_w == x.c) &&
         (x.h == 1 || x.stride_h == x.w * x.c) && (x.n == 1 || x.stride_n == x.h * x.w * x.c);
}

// A view of any strides to dense NHWC.
void copy_to_nhwc(const Run& run, const TensorView& x, float* y) {
  const std::int64_t image = x.h * x.w * x.c;
  const bool planes = (x.w == 1 || x.stride_w == 1) && (x.h == 1 || x.stride_h == x.w);
  for (std::int64_t n = 0; n < x.n; ++n) {
    const float* from = x.data + n * x.stride_n;
    float* to = y + n * image;
    if (planes) {
      run.kernels.interleave_f32({from, x.stride_c, to, x.h * x.w, x.c});
      continue;
    }
    for (std::int64_t i = 0; i < x.h; ++i) {
      for (std::int64_t j = 0; j < x.w; ++j) {
        for (std::int64_t c = 0; c < x.c; ++c) {
          *to++ = from[i * x.stride_h + j * x.stride_w + c * x.stride_c];
        }
      }
    }
  }
}

TensorView nhwc_view(const float* data, const Shape& s) {
  return {data, s.n, s.c, s.h, s.w, s.h * s.w * s.c, 1, s.w * s.c, s.c};
}

// One record on dense NHWC images.
void run_record(const Run& run, const Record& record, const float* x, const Shape& shape,
                float* y) {
  const Shape out = record_output("run", record, shape);
  const std::int64_t x_image = shape.h * shape.w * shape.c;
  const std::int64_t y_image = out.h * out.w * out.c;
  switch (record.header->kind) {
    case RecordKind::kConv2d:
      run_conv2d(run, record, nhwc_view(x, shape), y);
      return;
    case RecordKind::kPointwise:
      run_pointwise(run, record, x, shape.n * shape.h * shape.w, y);
      return;
    default:
      break;
  }
  for (std::int64_t n = 0; n < shape.n; ++n) {
    const float* from = x + n * x_image;
    float* to = y + n * y_image;
    if (record.header->kind == RecordKind::kSeparable) {
      run_separable(run, record, from, shape, to);
    } else if (record.header->kind == RecordKind::kSqueezeExcite) {
      run_squeeze_excite(run, record, from, shape, to);
    } else {
      run_global_pool(run, from, shape, to);
    }
  }
}

// Records [first, last) from x to y; what lies between two of them stays in two buffers that take
// turns. `shapes` has the input of each record and the last output.
void run_list(const Run& run, const std::vector<Record>& records, const std::vector<Shape>& shapes,
              std::size_t first, std::size_t last, std::int64_t images, TensorView x, float* y) {
  auto elements = [&](std::size_t i) { return images * shapes[i].c * shapes[i].h * shapes[i].w; };
  Workspace::Scope scope(Workspace::of_this_thread());
  std::int64_t largest[2] = {0, 0};
  for (std::size_t i = first + 1; i < last; ++i) {
    largest[i % 2] = std::max(largest[i % 2], elements(i));
  }
  float* buffers[2] = {scope.take(largest[0]), scope.take(largest[1])};
  const float* from = x.data;
  if (!dense_nhwc(x)) {
    if (records[first].header->kind == RecordKind::kConv2d) {
      float* to = first + 1 == last ? y : buffers[(first + 1) % 2];
      run_conv2d(run, records[first], x, to);
      from = to;
      ++first;
    } else {
      float* copy = scope.take(elements(first));
      copy_to_nhwc(run, x, copy);
      from = copy;
    }
  }
  for (std::size_t i = first; i < last; ++i) {
    float* to = i + 1 == last ? y : buffers[(i + 1) % 2];
    Shape shape = shapes[i];
    shape.n = images;
    run_record(run, records[i], from, shape, to);
    from = to;
  }
}

}  // namespace

void run(const std::string& op, const TensorView& x, Packed packed, float* y) {
  const std::vector<Record> records = parse(op, packed);
  std::vector<Shape> shapes = {{x.n, x.c, x.h, x.w}};
  for (const Record& record : records) shapes.push_back(record_output(op, record, shapes.back()));
  if (x.n == 0) return;
  const int threads = max_threads();
  const Run whole = {kernels(), machine_caches(), threads};

  // With an image for every thread, each takes whole images through the network: nothing is shared
  // but the weights. After the pooling the images are rows of one product.
  std::size_t tail = 0;
  while (tail < records.size() && (shapes[tail].h != 1 || shapes[tail].w != 1)) ++tail;
  if (x.n == 1 || tail == 0) {
    run_list(whole, records, shapes, 0, records.size(), x.n, x, y);
    return;
  }
  // Image by image without threads as well: the activations of one image stay in the cache.
  const bool images_in_parallel = threads > 1 && x.n >= threads;
  const Run per_image = {whole.kernels, whole.caches, images_in_parallel ? 1 : threads};
  Workspace::Scope scope(Workspace::of_this_thread());
  const Shape& middle = shapes[tail];
  const std::int64_t image = middle.c * middle.h * middle.w;
  float* pooled = tail == records.size() ? y : scope.take(x.n * image);
  auto one = [&](std::int64_t n) {
    TensorView view = x;
    view.data += n * x.stride_n;
    view.n = 1;
    run_list(per_image, records, shapes, 0, tail, 1, view, pooled + n * image);
  };
  if (images_in_parallel) {
    parallel_for(x.n, one);
  } else {
    for (std::int64_t n = 0; n < x.n; ++n) one(n);
  }
  if (tail < records.size()) {
    run_list(whole, records, shapes, tail, records.size(), x.n, nhwc_view(pooled, middle), y);
  }
}

std::string explain(const Shape& x, Packed packed, int threads) {
  std::string text;
  Shape shape = x;
  for (const Record& record : parse("explain", packed)) {
    const RecordHeader& h = *record.header;
    const Shape out = record_output("explain", record, shape);
    if (h.kind == RecordKind::kSeparable) {
      const SeparableProblem p = separable_problem(record, shape, out);
      const SeparablePlan plan = plan_separable(p, machine_caches(), threads, fusion_policy());
      text += concat("separable ", h.c_in, "-", h.c_mid, "-", h.c_out, " ", shape.h, "x", shape.w,
                     " k", h.window.kernel_h, " s", h.window.stride_h, ": ", plan.reason,
                     "; threads ", plan.threads, ", bands ", plan.bands, ", strip rows ",
                     plan.strip_rows, ", channels ", plan.chunk, "\n");
    } else {
      const char* name = h.kind == RecordKind::kConv2d          ? "conv2d"
                         : h.kind == RecordKind::kPointwise     ? "pointwise"
                         : h.kind == RecordKind::kSqueezeExcite ? "squeeze_excite"
                                                                : "global_avg_pool2d";
      text += concat(name, " ", h.c_in, "-", h.c_out, " ", shape.h, "x", shape.w, "\n");
    }
    shape = out;
  }
  return text;
}

}  // namespace weebill
