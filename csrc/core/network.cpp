// Lists of records: shapes, and the run from record to record.
#include <algorithm>
#include <type_traits>

#include "core/cpu.h"
#include "core/drivers.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 31;

std::int64_t span(std::int64_t kernel, std::int64_t dilation) { return (kernel - 1) * dilation; }

std::int64_t output_size(std::int64_t size, std::int64_t pads, std::int64_t kernel,
                         std::int64_t dilation, std::int64_t stride) {
  const std::int64_t room = size + pads - span(kernel, dilation) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

bool has_window(const RecordHeader& h) {
  return h.kind == RecordKind::kConv2d || h.kind == RecordKind::kSeparable ||
         h.kind == RecordKind::kMaxPool;
}

// The header that holds the window from which a record's output size follows.
const RecordHeader& window_header(const Record& record) {
  if (record.header->kind == RecordKind::kShuffleUnit) return *record.parts[0].header;
  if (record.header->kind == RecordKind::kShuffleUnitV1) return *record.parts[1].header;
  return *record.header;
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

namespace {

// The output of a unit: that of its branches, which must agree.
void unit_output(const std::string& op, const Record& unit, const Shape& x, Shape* out) {
  const RecordHeader& h = *unit.header;
  const bool v1 = h.kind == RecordKind::kShuffleUnitV1;
  // The parts that see the image: in V1's unit the depthwise convolution and the pooling.
  const std::size_t first = v1 ? 1 : 0;
  for (std::size_t i = first; i < unit.parts.size(); i += v1 ? 2 : 1) {
    Shape in = x;
    in.c = unit.parts[i].header->c_in;
    const Shape size = record_output(op, unit.parts[i], in);
    check(i == first || (size.h == out->h && size.w == out->w), op,
          ": both branches must give the same size, got ", out->h, " x ", out->w, " and ", size.h,
          " x ", size.w, " for ", x);
    out->h = size.h;
    out->w = size.w;
  }
  const bool keeps = v1 ? h.residual != 0 : unit.parts.size() == 1;
  check(!keeps || (out->h == x.h && out->w == x.w), op,
        ": padding and stride must keep the size of x in a unit without a shortcut branch, got ", x,
        " and an output of ", out->h, " x ", out->w);
}

}  // namespace

Shape record_output(const std::string& op, const Record& record, const Shape& x) {
  const RecordHeader& h = *record.header;
  check(x.c == h.c_in, op, ": x must have ", h.c_in, " channels, got ", x.c);
  check(x.n >= 0 && x.h >= 1 && x.w >= 1, op,
        ": x must have a height and width of at least 1, got ", x);
  check(x.n <= kMaxSize && x.h <= kMaxSize && x.w <= kMaxSize, op,
        ": x must have sizes of at most 2^31, got ", x);
  Shape out = {x.n, h.c_out, x.h, x.w};
  if (h.kind == RecordKind::kGlobalPool) {
    out.h = out.w = 1;
  } else if (is_unit(h)) {
    unit_output(op, record, x, &out);
  } else if (has_window(h)) {
    const Window w = resolve(h.window, x.h, x.w);
    out.h = output_size(x.h, std::int64_t{w.pad_top} + w.pad_bottom, w.kernel_h, w.dilation_h,
                        w.stride_h);
    out.w = output_size(x.w, std::int64_t{w.pad_left} + w.pad_right, w.kernel_w, w.dilation_w,
                        w.stride_w);
    check(out.h >= 1 && out.w >= 1, op,
          ": x must be at least as large as the window after padding, got ", x, " for a kernel of ",
          w.kernel_h, " x ", w.kernel_w);
    check(h.residual == 0 || (out.h == x.h && out.w == x.w), op,
          ": padding must keep the size of x where a residual is added, got ", x,
          " and an output of ", out.h, " x ", out.w);
  }
  const double elements = static_cast<double>(std::max<std::int64_t>(x.n, 1)) *
                          static_cast<double>(std::max({h.c_in, h.c_mid, h.c_out})) *
                          static_cast<double>(std::max(x.h, out.h)) *
                          static_cast<double>(std::max(x.w, out.w));
  check(elements <= static_cast<double>(kMaxElements), op,
        ": x must give tensors of at most 2^40 elements, got ", x);
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
    const RecordHeader& sized = window_header(record);
    const Window w = has_window(sized) ? sized.window : Window();
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

namespace {

std::int64_t multiply_adds_of(const Record& record, const Shape& x, const Shape& out) {
  const RecordHeader& h = *record.header;
  std::int64_t total = 0;
  if (is_unit(h)) {
    // V1's first product works on the pixels of x; its fourth part, a pooling, only adds.
    const bool v1 = h.kind == RecordKind::kShuffleUnitV1;
    for (std::size_t i = 0; i < (v1 ? 3 : record.parts.size()); ++i) {
      total += multiply_adds_of(record.parts[i], x, v1 && i == 0 ? x : out);
    }
    return total;
  }
  const std::int64_t taps = std::int64_t{h.window.kernel_h} * h.window.kernel_w;
  const std::int64_t pixels = out.n * out.h * out.w;
  if (h.kind == RecordKind::kConv2d) total += pixels * taps * (h.c_in / h.groups) * h.c_out;
  if (h.kind == RecordKind::kPointwise) total += pixels * h.c_in * h.c_out;
  if (h.kind == RecordKind::kSeparable) {
    total += pixels * h.c_mid * (taps + (h.has_project != 0 ? h.c_out : 0));
    if (h.has_expand != 0) total += x.n * x.h * x.w * h.c_in * h.c_mid;
  }
  if (h.has_se != 0) total += 2 * out.n * h.c_mid * h.c_se;
  return total;
}

}  // namespace

std::int64_t multiply_adds(const Shape& x, Packed packed) {
  std::int64_t total = 0;
  Shape shape = x;
  for (const Record& record : parse("multiply_adds", packed)) {
    const Shape out = record_output("multiply_adds", record, shape);
    total += multiply_adds_of(record, shape, out);
    shape = out;
  }
  return total;
}

namespace {

// Of a call, in multiply-adds: moving an element costs about as much as four.
std::int64_t work(const std::vector<Record>& records, const std::vector<Shape>& shapes) {
  constexpr std::int64_t kPerElement = 4;
  std::int64_t total = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Shape &x = shapes[i], &out = shapes[i + 1];
    const std::int64_t elements = x.n * x.c * x.h * x.w + out.n * out.c * out.h * out.w;
    total += multiply_adds_of(records[i], x, out) + elements * kPerElement;
  }
  return total;
}

// Whether a record takes images as they are.
template <typename T>
bool takes(const Record& record, const TensorViewOf<T>& x) {
  const RecordKind kind = record.header->kind;
  if (kind == RecordKind::kConv2d) return true;
  const std::int64_t stride = pixel_stride(x);
  const bool any_distance = kind == RecordKind::kPointwise || kind == RecordKind::kSeparable;
  return stride == x.c || (stride > 0 && any_distance);
}

// One record on images that it takes.
template <typename T>
void run_record(const RunOf<T>& run, const Record& record, const TensorViewOf<T>& view, T* y) {
  const Shape shape = {view.n, view.c, view.h, view.w};
  const T* x = view.data;
  const Shape out = record_output("run", record, shape);
  const std::int64_t stride = pixel_stride(view);
  const std::int64_t x_image = shape.h * shape.w * stride;
  const std::int64_t y_image = out.h * out.w * out.c;
  switch (record.header->kind) {
    case RecordKind::kConv2d:
      run_conv2d(run, record, view, y);
      return;
    case RecordKind::kPointwise:
      run_pointwise(run, record, {x, stride}, shape.n * shape.h * shape.w, y);
      return;
    default:
      break;
  }
  for (std::int64_t n = 0; n < shape.n; ++n) {
    const T* from = x + n * x_image;
    T* to = y + n * y_image;
    switch (record.header->kind) {
      case RecordKind::kSeparable:
        run_separable(run, record, {from, stride}, shape, to);
        break;
      case RecordKind::kSqueezeExcite:
        run_squeeze_excite(run, record, from, shape, to);
        break;
      case RecordKind::kMaxPool:
        run_max_pool(run, record, from, shape, to);
        break;
      case RecordKind::kChannelShuffle:
        run_channel_shuffle(run, record, from, shape, to);
        break;
      case RecordKind::kShuffleUnitV1:
        run_shuffle_unit_v1(run, record, from, shape, to);
        break;
      default:
        run_global_pool(run, from, shape, to);
    }
  }
}

// How many of the records from the front run as one: units of ShuffleNetV2, between which nothing
// is shuffled. Only the first may have a shortcut branch; the others read their input through a
// table, which only an expansion can.
std::size_t units_in_front(const Record* records, std::size_t count) {
  if (records->header->kind != RecordKind::kShuffleUnit) return 0;
  std::size_t units = 1;
  auto goes_on = [](const Record& record) {
    if (record.header->kind != RecordKind::kShuffleUnit || record.parts.size() != 1) return false;
    const RecordHeader& branch = *record.parts[0].header;
    return branch.has_expand != 0 && branch.residual == 0;
  };
  while (units < count && goes_on(records[units])) ++units;
  return units;
}

// How a convolution in front and a max pooling behind it run.
template <typename T>
PooledPlan plan_in_front(const RunOf<T>& run, const Record* records, std::size_t count,
                         const Shape& x) {
  const bool both = count > 1 && records[0].header->kind == RecordKind::kConv2d &&
                    records[1].header->kind == RecordKind::kMaxPool;
  return both ? plan_pooled(run, records[0], records[1], x) : PooledPlan();
}

// Records [first, last) from x to y; what lies between two of them stays in two buffers that take
// turns. `shapes` has the input of each record and the last output.
template <typename T>
void run_list(const RunOf<T>& run, const std::vector<Record>& records,
              const std::vector<Shape>& shapes, std::size_t first, std::size_t last,
              std::int64_t images, TensorViewOf<T> x, T* y) {
  auto elements = [&](std::size_t i) { return images * shapes[i].c * shapes[i].h * shapes[i].w; };
  Workspace::Scope scope(Workspace::of_this_thread());
  std::int64_t largest = 0;
  for (std::size_t i = first + 1; i < last; ++i) largest = std::max(largest, elements(i));
  T* buffers[2] = {scope.take<T>(largest), scope.take<T>(largest)};
  const T* from = x.data;
  const bool as_it_is = takes(records[first], x);
  if (!as_it_is) from = nhwc_data(run, x, scope);
  for (std::size_t i = first; i < last;) {
    Shape shape = shapes[i];
    shape.n = images;
    const TensorViewOf<T> view = i == first && as_it_is ? x : nhwc_view(from, shape);
    const std::size_t units = units_in_front(&records[i], last - i);
    const PooledPlan pooled = plan_in_front(run, &records[i], last - i, shape);
    const std::size_t next = i + std::max<std::size_t>(units, pooled.fused ? 2 : 1);
    // The buffer that `from` does not lie in.
    T* to = next == last ? y : (from == buffers[0] ? buffers[1] : buffers[0]);
    if (pooled.fused) {
      run_conv2d_max_pool(run, records[i], records[i + 1], view, pooled, to);
    } else if (units == 0) {
      run_record(run, records[i], view, to);
    } else {
      const Shape& out = shapes[next];
      for (std::int64_t n = 0; n < images; ++n) {
        run_shuffle_units(run, &records[i], units, from + n * shape.c * shape.h * shape.w, shape,
                          to + n * out.c * out.h * out.w);
      }
    }
    from = to;
    i = next;
  }
}

}  // namespace

namespace {

// What a call is made of, and how it uses the threads: the same for run() and explain().
struct Call {
  std::vector<Record> records;
  std::vector<Shape> shapes;  // the input of each record and the last output
  std::size_t tail;           // the first record after the pooling: there images are rows
  CallPlan plan;
};

Call plan_records(const std::string& op, const Shape& x, Packed packed, int threads) {
  Call call = {parse(op, packed), {x}, 0, {}};
  for (const Record& record : call.records) {
    call.shapes.push_back(record_output(op, record, call.shapes.back()));
  }
  auto is_row = [&](std::size_t i) { return call.shapes[i].h == 1 && call.shapes[i].w == 1; };
  while (call.tail < call.records.size() && !is_row(call.tail)) ++call.tail;
  call.plan = plan_call(work(call.records, call.shapes), call.tail == 0 ? 1 : x.n, threads);
  return call;
}

}  // namespace

template <typename T>
void run_with(const RunOf<T>& run, const std::string& op, const TensorViewOf<T>& x, Packed packed,
              const std::function<T*(const Shape&)>& output) {
  const Call call = plan_records(op, {x.n, x.c, x.h, x.w}, packed, run.threads);
  const std::vector<Record>& records = call.records;
  const std::vector<Shape>& shapes = call.shapes;
  const std::size_t tail = call.tail;
  const CallPlan& plan = call.plan;
  const ElementType wanted =
      std::is_same_v<T, Half> ? ElementType::kFloat16 : ElementType::kFloat32;
  for (const Record& record : records) {
    check(record.header->element == wanted, op, ": records must all be of ",
          std::is_same_v<T, Half> ? "float16" : "float32", ", got one that is not");
  }
  T* const y = output(shapes.back());
  if (x.n == 0) return;
  AheadOf<T> ahead = {nullptr, plan.threads == 1 ? plan_reach(run.caches) : 0};
  const RunOf<T> whole = {run.kernels, run.caches, plan.threads,
                          goes_past_caches(records, shapes.back()),
                          ahead.reach > 0 ? &ahead : nullptr};
  with_threads(plan.threads, [&] {
    if (x.n == 1 || tail == 0) {
      run_list(whole, records, shapes, 0, records.size(), x.n, x, y);
      return;
    }
    // Image by image without threads as well: the activations of one image stay in the cache. With
    // an image for every thread, nothing is shared but the weights.
    const RunOf<T> per_image = {whole.kernels, whole.caches, plan.threads_of_image(), whole.streams,
                                whole.ahead};
    Workspace::Scope scope(Workspace::of_this_thread());
    const Shape& middle = shapes[tail];
    const std::int64_t image = middle.c * middle.h * middle.w;
    T* pooled = tail == records.size() ? y : scope.take<T>(x.n * image);
    auto one = [&](std::int64_t n) {
      TensorViewOf<T> view = x;
      view.data += n * x.stride_n;
      view.n = 1;
      run_list(per_image, records, shapes, 0, tail, 1, view, pooled + n * image);
    };
    if (plan.images_in_parallel) {
      parallel_for(x.n, one);
    } else {
      for (std::int64_t n = 0; n < x.n; ++n) one(n);
    }
    if (tail < records.size()) {
      run_list(whole, records, shapes, tail, records.size(), x.n, nhwc_view<T>(pooled, middle), y);
    }
  });
}

template void run_with(const Run&, const std::string&, const TensorView&, Packed,
                       const std::function<float*(const Shape&)>&);
template void run_with(const RunOf<Half>&, const std::string&, const HalfTensorView&, Packed,
                       const std::function<Half*(const Shape&)>&);

namespace {

const char* kind_name(RecordKind kind) {
  switch (kind) {
    case RecordKind::kConv2d:
      return "conv2d";
    case RecordKind::kPointwise:
      return "pointwise";
    case RecordKind::kSeparable:
      return "separable";
    case RecordKind::kSqueezeExcite:
      return "squeeze_excite";
    case RecordKind::kGlobalPool:
      return "global_avg_pool2d";
    case RecordKind::kMaxPool:
      return "max_pool2d";
    case RecordKind::kChannelShuffle:
      return "channel_shuffle";
    case RecordKind::kShuffleUnit:
      return "shuffle_unit";
    case RecordKind::kShuffleUnitV1:
      return "shuffle_unit_v1";
  }
  return "";
}

}  // namespace

std::string explain(const Shape& x, Packed packed, int threads) {
  std::string text;
  const Call call = plan_records("explain", x, packed, threads);
  const Run run = {kernels(), machine_caches(), call.plan.threads_of_image(),
                   goes_past_caches(call.records, call.shapes.back())};
  for (std::size_t i = 0; i < call.records.size(); ++i) {
    const Record& record = call.records[i];
    const RecordHeader& h = *record.header;
    const Shape &shape = call.shapes[i], &out = call.shapes[i + 1];
    auto plan_of = [&](const SeparableProblem& p) {
      return plan_separable(p, run.caches, run.threads, fusion_policy());
    };
    if (h.kind == RecordKind::kSeparable) {
      const SeparableProblem p = separable_problem(run, record, shape, out);
      const SeparablePlan plan = plan_of(p);
      text += concat("separable ", h.c_in, "-", h.c_mid, "-", h.c_out, " ", shape.h, "x", shape.w,
                     " k", h.window.kernel_h, " s", h.window.stride_h, ": ", plan.reason,
                     "; threads ", plan.threads, ", bands ", plan.bands, ", parts of the channels ",
                     plan.parts, ", strip rows ", plan.strip_rows, ", channels ", plan.chunk, "\n");
    } else {
      text += concat(kind_name(h.kind), " ", h.c_in, "-", h.c_out, " ", shape.h, "x", shape.w);
      const PooledPlan pooled = plan_in_front(run, &record, call.records.size() - i, shape);
      if (*pooled.reason != '\0') {
        text += concat("; ", pooled.reason);
        if (pooled.fused) {
          text += concat("; bands ", pooled.bands, ", strip rows ", pooled.strip_rows);
        }
      }
      for (const Record& part : record.parts) {
        if (part.header->kind != RecordKind::kSeparable) continue;
        Shape in = shape;
        in.c = part.header->c_in;
        const SeparableProblem p =
            separable_problem(run, part, in, record_output("explain", part, in));
        text += concat("; ", plan_of(p).reason);
      }
      text += "\n";
    }
  }
  return text;
}

}  // namespace weebill
