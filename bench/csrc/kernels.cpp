// Every kernel of kernels.def on shapes of MobileNetV3, alone: no drivers, no padding, no threads.
#include "core/dispatch.h"
#include "core/plan.h"
#include "core/record.h"
#include "timing.h"

namespace weebill::bench {
namespace {

std::string text(std::int64_t number) { return std::to_string(number); }

constexpr double kFloat = sizeof(float);
template <typename T>
constexpr double kBytes = sizeof(T);

std::int64_t padded(std::int64_t channels) { return (channels + kBlock - 1) / kBlock * kBlock; }

struct Product {
  std::int64_t m, k, n;
};

// Expansions and projections from 112 x 112 to 7 x 7, and a linear layer.
constexpr Product kProducts[] = {{12544, 16, 64}, {3136, 24, 72}, {3136, 72, 24}, {784, 40, 120},
                                 {784, 120, 40},  {196, 80, 200}, {196, 200, 80}, {196, 112, 672},
                                 {196, 672, 112}, {49, 160, 960}, {49, 960, 160}, {1, 960, 1280}};

/// `table`: a 3 x 3 window of stride 2 over NHWC rows instead of a pixel's channels.
template <typename T>
void bench_product(Bench& bench, const std::string& name, void (*kernel)(const PointwiseArgsOf<T>&),
                   const Product& p, bool table, std::int32_t activation, bool scale) {
  const Case what{
      "kernel",
      name + "/m" + text(p.m) + "_k" + text(p.k) + "_n" + text(p.n) + (scale ? "_scaled" : ""),
      2.0 * static_cast<double>(p.m * p.k * p.n),
      kBytes<T> * static_cast<double>(p.m * (p.k + p.n) + p.k * p.n)};
  if (!bench.wants(what)) return;
  PointwiseArgsOf<T> args{};
  args.m = p.m;
  args.k = p.k;
  args.n = p.n;
  const std::int64_t channels = p.k / 9;
  args.x_stride = table ? 2 * channels : p.k;
  std::vector<std::int64_t> offsets;
  const std::int64_t row = (2 * p.m + 1) * channels;
  for (std::int64_t i = 0; table && i < p.k; ++i) {
    offsets.push_back(i / (3 * channels) * row + i % (3 * channels));
  }
  args.offsets = table ? offsets.data() : nullptr;
  const Numbers<T> x = numbers<T>(table ? 3 * row : p.m * p.k);
  const Numbers<T> w = numbers<T>(padded(p.n) * p.k), bias = numbers<T>(padded(p.n));
  const Numbers<T> factors = numbers<T>(p.k);
  Numbers<T> y(static_cast<std::size_t>(p.m * p.n));
  args.m_block = plan_m_block(p.m, p.k, scale, machine_caches());
  Numbers<T> scratch(static_cast<std::size_t>(args.m_block * p.k));
  args.x = x.data();
  args.w = w.data();
  args.w_block_stride = p.k * kBlock;
  args.bias = bias.data();
  args.y = y.data();
  args.y_stride = p.n;
  args.y_width = p.m;
  args.scale = scale ? factors.data() : nullptr;
  args.scratch = scale ? scratch.data() : nullptr;
  args.activation = activation;
  bench.run(what, [&] { kernel(args); });
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const PointwiseArgsOf<T>&)) {
  if (name.rfind("conv2d", 0) == 0) {
    bench_product(bench, name, kernel, {112, 27, 16}, true, kActHardswish, false);
    bench_product(bench, name, kernel, {112, 27, 32}, true, kActRelu6, false);
    return;
  }
  for (const Product& p : kProducts) {
    bench_product(bench, name, kernel, p, false, p.n > p.k ? kActHardswish : kActNone, false);
  }
  bench_product(bench, name, kernel, {49, 960, 160}, false, kActNone, true);
  bench_product(bench, name, kernel, {196, 672, 112}, false, kActNone, true);
}

struct Line {
  std::int64_t columns, channels;
};
constexpr Line kLines[] = {{112, 16}, {112, 64}, {56, 72},  {28, 120},
                           {28, 240}, {14, 200}, {14, 672}, {7, 960}};

struct WindowOfRow {
  std::int64_t kernel, stride;
};

/// Calls run(args) on one row of output.
template <typename T, typename Run>
void bench_line(Bench& bench, const std::string& name, const Line& line, const WindowOfRow& window,
                std::int64_t taps, Run run) {
  const Case what{"kernel", name + "/w" + text(line.columns) + "_c" + text(line.channels),
                  2.0 * static_cast<double>(line.columns * line.channels * window.kernel * taps),
                  kBytes<T> * static_cast<double>(
                                  line.channels *
                                  (window.kernel * line.columns * window.stride + line.columns))};
  if (!bench.wants(what)) return;
  const std::int64_t pixels = (line.columns - 1) * window.stride + window.kernel;
  const Numbers<T> x = numbers<T>(window.kernel * pixels * line.channels);
  const Numbers<T> w = numbers<T>(padded(line.channels) * window.kernel * window.kernel);
  const Numbers<T> bias = numbers<T>(padded(line.channels));
  Numbers<T> y(static_cast<std::size_t>(line.columns * line.channels));
  std::vector<const T*> rows;
  for (std::int64_t u = 0; u < window.kernel; ++u) {
    rows.push_back(x.data() + u * pixels * line.channels);
  }
  DepthwiseArgsOf<T> args{};
  args.x_rows = rows.data();
  args.x_stride = line.channels;
  args.w = w.data();
  args.bias = bias.data();
  args.y = y.data();
  args.y_stride = line.channels;
  args.rows = window.kernel;
  args.columns = line.columns;
  args.channels = line.channels;
  args.activation = kActHardswish;
  bench.run(what, [&] { run(args); });
}

/// From the name: depthwise_k<kernel>s<stride>_f32 or _f16.
WindowOfRow window_of(const std::string& name) {
  const std::size_t k = name.find("_k"), s = name.find('s', k);
  return {name[k + 2] - '0', name[s + 1] - '0'};
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const DepthwiseArgsOf<T>&)) {
  const WindowOfRow window = window_of(name);
  for (const Line& line : kLines) {
    bench_line<T>(bench, name, line, window, window.kernel, kernel);
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const DepthwiseAnyArgsOf<T>&)) {
  for (const Line& line : {Line{28, 120}, Line{7, 960}}) {
    // A 7 x 7 window, and the edge of a 5 x 5 one: one column, three of its taps.
    bench_line<T>(bench, name + "/k7", line, {7, 1}, 7, [kernel](const DepthwiseArgsOf<T>& common) {
      kernel({common, 7, 7, 1, 1, 0, 7});
    });
    bench_line<T>(
        bench, name + "/edge", {1, line.channels}, {5, 1}, 3,
        [kernel](const DepthwiseArgsOf<T>& common) { kernel({common, 5, 5, 1, 1, 2, 3}); });
  }
}

/// A row of dx and of x under one window, zeros around dy.
template <typename Run>
void bench_gradients(Bench& bench, const std::string& name, const Line& line,
                     const WindowOfRow& window, Run run) {
  const std::int64_t columns = line.columns * window.stride;
  const std::int64_t rows = (window.kernel + window.stride - 1) / window.stride;
  const Case what{
      "kernel", name + "/w" + text(columns) + "_c" + text(line.channels),
      4.0 * static_cast<double>(line.columns * line.channels * window.kernel * rows),
      kFloat * static_cast<double>(line.channels * (rows * line.columns + 2 * columns))};
  if (!bench.wants(what)) return;
  const Floats dy = numbers(rows * line.columns * line.channels),
               x = numbers(columns * line.channels);
  const Floats w = numbers(padded(line.channels) * window.kernel * window.kernel);
  Floats dx(x.size()), dw(w.size());
  std::vector<const float*> pointers;
  for (std::int64_t r = 0; r < rows; ++r) {
    pointers.push_back(dy.data() + r * line.columns * line.channels);
  }
  DepthwiseGradArgs args{};
  args.dy_rows = pointers.data();
  args.dy_columns = line.columns;
  args.dy_stride = args.x_stride = args.dx_stride = args.channels = line.channels;
  args.w = w.data();
  args.dw = dw.data();
  args.x = x.data();
  args.dx = dx.data();
  args.row_step = window.stride;
  args.rows = rows;
  args.first = window.kernel / 2;
  args.columns = columns;
  bench.run(what, [&] { run(args); });
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const DepthwiseGradArgs&)) {
  for (const Line& line : kLines) bench_gradients(bench, name, line, window_of(name), kernel);
}

void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const DepthwiseGradAnyArgs&)) {
  const Line line{28, 120};
  bench_gradients(bench, name, line, {7, 1},
                  [&](const DepthwiseGradArgs& common) { kernel({common, 7, 7, 1, 1}); });
}

void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const PointwiseWeightGradArgs&)) {
  for (const Product& p : kProducts) {
    const Case what{"kernel", name + "/m" + text(p.m) + "_k" + text(p.k) + "_n" + text(p.n),
                    2.0 * static_cast<double>(p.m * p.k * p.n),
                    kFloat * static_cast<double>(p.m * (p.k + p.n) + p.k * p.n)};
    if (!bench.wants(what)) continue;
    const Floats x = numbers(p.m * p.k), dy = numbers(p.m * p.n);
    Floats dw(static_cast<std::size_t>(p.n * p.k));
    const PointwiseWeightGradArgs args{x.data(), p.k, dy.data(), p.n, dw.data(),
                                       p.k,      p.m, p.k,       p.n, 64};
    bench.run(what, [&] { kernel(args); });
  }
}

struct Pixels {
  std::int64_t pixels, channels;
};
constexpr Pixels kPixels[] = {{784, 72}, {784, 120}, {196, 480}, {49, 960}};

template <typename T = float>
Case pixels_case(const std::string& name, const Pixels& p, double passes) {
  const auto elements = static_cast<double>(p.pixels * p.channels);
  return {"kernel", name + "/p" + text(p.pixels) + "_c" + text(p.channels), elements,
          passes * kBytes<T> * elements};
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const SumArgsOf<T>&)) {
  for (const Pixels& p : kPixels) {
    const Numbers<T> x = numbers<T>(p.pixels * p.channels);
    Floats sum(static_cast<std::size_t>(p.channels));
    const SumArgsOf<T> args{x.data(), p.channels, sum.data(), p.pixels, p.channels};
    bench.run(pixels_case<T>(name, p, 1), [&] { kernel(args); });
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const ScaleArgsOf<T>&)) {
  for (const Pixels& p : kPixels) {
    const Numbers<T> x = numbers<T>(p.pixels * p.channels), scale = numbers<T>(p.channels);
    Numbers<T> y(x.size());
    const ScaleArgsOf<T> args{x.data(),   p.channels, scale.data(), y.data(),
                              p.channels, p.pixels,   p.channels};
    bench.run(pixels_case<T>(name, p, 2), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const CopyArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels);
    Floats y(x.size());
    const CopyArgs args{x.data(), p.channels, y.data(), p.channels, p.pixels, p.channels, false};
    Case what = pixels_case(name, p, 2);
    what.flops = 0;
    bench.run(what, [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const BlockCopyArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels);
    Floats y(static_cast<std::size_t>(p.pixels * round_up(p.channels, kBlock)));
    const BlockCopyArgs args{x.data(),          p.channels, y.data(),
                             p.pixels * kBlock, p.pixels,   p.channels};
    Case what = pixels_case(name, p, 2);
    what.flops = 0;
    bench.run(what, [&] { kernel(args); });
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name,
                  void (*kernel)(const InterleaveArgsOf<T>&)) {
  for (const Pixels& p : {Pixels{50176, 3}, Pixels{784, 120}, Pixels{49, 960}}) {
    const Numbers<T> x = numbers<T>(p.pixels * p.channels);
    Numbers<T> y(x.size());
    const InterleaveArgsOf<T> args{x.data(), p.pixels, y.data(), p.pixels, p.channels};
    Case what = pixels_case<T>(name, p, 2);
    what.flops = 0;
    bench.run(what, [&] { kernel(args); });
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const ActivateArgsOf<T>&)) {
  for (const Pixels& p : kPixels) {
    Numbers<T> x = numbers<T>(p.pixels * p.channels);
    const ActivateArgsOf<T> args{x.data(), p.channels, p.pixels, p.channels, kActRelu};
    bench.run(pixels_case<T>(name, p, 2), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const MomentsArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels), shift = numbers(p.channels);
    Floats sum(shift.size()), square(shift.size());
    const MomentsArgs args{x.data(),      p.channels, shift.data(), sum.data(),
                           square.data(), p.pixels,   p.channels};
    bench.run(pixels_case(name, p, 1), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const NormalizeArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels), each = numbers(p.channels);
    Floats y(x.size());
    const NormalizeArgs args{x.data(),    p.channels,    each.data(), each.data(),
                             each.data(), y.data(),      p.channels,  p.pixels,
                             p.channels,  kActHardswish, false};
    bench.run(pixels_case(name, p, 2), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const NormalizeSumsArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels), each = numbers(p.channels);
    Floats sum(each.size()), dot(each.size());
    const NormalizeSumsArgs args{x.data(),    p.channels,  x.data(),    p.channels,
                                 each.data(), each.data(), each.data(), sum.data(),
                                 dot.data(),  p.pixels,    p.channels,  kActHardswish};
    bench.run(pixels_case(name, p, 2), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const NormalizeGradArgs&)) {
  for (const Pixels& p : kPixels) {
    const Floats x = numbers(p.pixels * p.channels), each = numbers(p.channels);
    Floats dx(x.size());
    const NormalizeGradArgs args{x.data(),    p.channels,  x.data(),    p.channels,    each.data(),
                                 each.data(), each.data(), each.data(), each.data(),   dx.data(),
                                 p.channels,  p.pixels,    p.channels,  kActHardswish, false};
    bench.run(pixels_case(name, p, 3), [&] { kernel(args); });
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const MaxPoolArgsOf<T>&)) {
  // A row of the stem of ShuffleNetV2, and a window that shares nothing.
  for (const std::int64_t taps : {3, 2}) {
    const Pixels p{56, 24};
    const Numbers<T> x = numbers<T>(3 * (2 * p.pixels + 1) * p.channels);
    Numbers<T> y(static_cast<std::size_t>(p.pixels * p.channels));
    const T* rows[3];
    for (int u = 0; u < 3; ++u) rows[u] = x.data() + u * (2 * p.pixels + 1) * p.channels;
    const MaxPoolArgsOf<T> args{rows, p.channels, y.data(), p.channels, taps,
                                taps, 2,          1,        p.pixels,   p.channels};
    bench.run(pixels_case<T>(name + "/k" + text(taps), p, 5), [&] { kernel(args); });
  }
}

template <typename T>
void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const ShuffleArgsOf<T>&)) {
  for (const std::int64_t groups : {2, 3, 4, 8}) {
    const Pixels p{784, 120};
    const Numbers<T> x = numbers<T>(p.pixels * p.channels);
    Numbers<T> y(x.size());
    std::vector<const T*> starts;
    for (std::int64_t j = 0; j < groups; ++j) starts.push_back(&x[j * (p.channels / groups)]);
    const std::vector<std::int64_t> strides(starts.size(), p.channels);
    const ShuffleArgsOf<T> args{starts.data(), strides.data(), y.data(),  p.channels,
                                p.pixels,      groups,         p.channels};
    bench.run(pixels_case<T>(name + "/g" + text(groups), p, 2), [&] { kernel(args); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const ShufflePlanesArgs&)) {
  const std::vector<unsigned char> x(976 * 7 * 7 * sizeof(float));
  std::vector<unsigned char> y(x.size());
  for (const std::int64_t side : {7, 14}) {
    const std::int64_t bytes = side * side * std::int64_t{sizeof(float)};
    const std::int64_t planes = static_cast<std::int64_t>(x.size()) / bytes;
    const Case what{"kernel", name + "/" + text(side), 0, 2.0 * static_cast<double>(x.size())};
    bench.run(what, [&] { kernel({x.data(), bytes, y.data(), bytes, 0, planes, 2, planes / 2}); });
  }
}

template <typename From, typename To, typename Args>
void bench_conversion(Bench& bench, const std::string& name, void (*kernel)(const Args&)) {
  for (const std::int64_t count : {3 * 224 * 224, 1000}) {
    const Numbers<From> x = numbers<From>(count);
    Numbers<To> y(x.size());
    const Case what{"kernel", name + "/" + text(count), 0,
                    (kBytes<From> + kBytes<To>)*static_cast<double>(count)};
    bench.run(what, [&] { kernel({x.data(), y.data(), count}); });
  }
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const NarrowArgs&)) {
  bench_conversion<float, Half>(bench, name, kernel);
}

void bench_kernel(Bench& bench, const std::string& name, void (*kernel)(const WidenArgs&)) {
  bench_conversion<Half, float>(bench, name, kernel);
}

}  // namespace

void bench_kernels(Bench& bench) {
  const KernelTable& table = kernels();
  // A kernel with a new argument structure does not compile here before it has shapes.
#define WEEBILL_KERNEL(name, Args, summary) bench_kernel(bench, #name, table.name);
#include "core/kernels.def"
#undef WEEBILL_KERNEL
  // What "scalar" rounds in software tells nothing of a processor.
  const HalfKernelTable* const halves = isa() == "scalar" ? nullptr : half_kernels();
  if (halves == nullptr) return;
#define WEEBILL_HALF_KERNEL(name, Args, summary) bench_kernel(bench, #name, halves->name);
#include "core/kernels.def"
#undef WEEBILL_HALF_KERNEL
}

}  // namespace weebill::bench
