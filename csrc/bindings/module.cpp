// `weebill._C`: the core for Python, on numpy arrays. It includes no torch: with the core it is all
// that a machine without torch needs.
#include <array>
#include <exception>
#include <optional>

#include "bindings/backward.h"
#include "bindings/convert.h"
#include "bindings/guard.h"
#include "bindings/numpy_arrays.h"
#include "core/cpu.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/profile.h"
#include "core/roofline.h"
#include "core/thread_pool.h"

namespace weebill::bindings {
namespace {

using Integers = std::vector<std::int64_t>;

Window parse_window(const std::string& op, const Integers& stride, const py::object& padding,
                    const Integers& dilation) {
  if (py::isinstance<py::str>(padding)) {
    const auto name = padding.cast<std::string>();
    check(name == "same", op,
          ": padding must be four integers (top, left, bottom, right) or 'same',", " got '", name,
          "'");
    return make_window(op, stride, {}, dilation, true);
  }
  Integers sides;
  try {
    sides = padding.cast<Integers>();
  } catch (const py::cast_error&) {
    throw TypeError(concat(op, ": padding must be integers or 'same', got ", type_name(padding)));
  }
  return make_window(op, stride, sides, dilation, false);
}

Shape parse_shape(const std::string& op, const Integers& sizes) {
  if (sizes.size() != 4 || *std::min_element(sizes.begin(), sizes.end()) < 0) {
    throw ValueError(concat(op, ": shape must be 4 numbers (n, c, h, w), none negative, got ",
                            text_of(py::cast(sizes))));
  }
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

py::array pack_conv2d(const py::object& weight, const py::object& bias, const Integers& stride,
                      const py::object& padding, const Integers& dilation, std::int64_t groups,
                      const std::string& activation, const std::string& op,
                      const py::object& allocate) {
  WeightArguments weights(op);
  Conv2dSpec spec;
  spec.op = op;
  spec.weight = weights.weight("weight", weight);
  spec.bias = weights.weight("bias", bias);
  spec.window = parse_window(op, stride, padding, dilation);
  spec.groups = groups;
  spec.activation = weights.activation("activation", activation);
  return packed_array(spec, allocate);
}

py::array pack_separable(const py::object& expand_weight, const py::object& expand_bias,
                         const py::object& depthwise_weight, const py::object& depthwise_bias,
                         const py::object& se_reduce_weight, const py::object& se_reduce_bias,
                         const py::object& se_expand_weight, const py::object& se_expand_bias,
                         const py::object& project_weight, const py::object& project_bias,
                         const Integers& stride, const py::object& padding,
                         const Integers& dilation, const std::string& expand_activation,
                         const std::string& depthwise_activation, const std::string& se_activation,
                         const std::string& se_gate, const std::string& project_activation,
                         bool residual, const std::string& op, const py::object& allocate) {
  WeightArguments weights(op);
  SeparableSpec spec;
  spec.op = op;
  spec.expand_weight = weights.weight("expand_weight", expand_weight);
  spec.expand_bias = weights.weight("expand_bias", expand_bias);
  spec.depthwise_weight = weights.weight("depthwise_weight", depthwise_weight);
  spec.depthwise_bias = weights.weight("depthwise_bias", depthwise_bias);
  spec.se_reduce_weight = weights.weight("se_reduce_weight", se_reduce_weight);
  spec.se_reduce_bias = weights.weight("se_reduce_bias", se_reduce_bias);
  spec.se_expand_weight = weights.weight("se_expand_weight", se_expand_weight);
  spec.se_expand_bias = weights.weight("se_expand_bias", se_expand_bias);
  spec.project_weight = weights.weight("project_weight", project_weight);
  spec.project_bias = weights.weight("project_bias", project_bias);
  spec.window = parse_window(op, stride, padding, dilation);
  spec.expand_activation = weights.activation("expand_activation", expand_activation);
  spec.depthwise_activation = weights.activation("depthwise_activation", depthwise_activation);
  spec.se_activation = weights.activation("se_activation", se_activation);
  spec.se_gate = weights.activation("se_gate", se_gate);
  spec.project_activation = weights.activation("project_activation", project_activation);
  spec.residual = residual;
  return packed_array(spec, allocate);
}

py::array pack_squeeze_excite(const py::object& reduce_weight, const py::object& reduce_bias,
                              const py::object& expand_weight, const py::object& expand_bias,
                              const std::string& activation, const std::string& gate,
                              const std::string& op, const py::object& allocate) {
  WeightArguments weights(op);
  SqueezeExciteSpec spec;
  spec.op = op;
  spec.reduce_weight = weights.weight("reduce_weight", reduce_weight);
  spec.reduce_bias = weights.weight("reduce_bias", reduce_bias);
  spec.expand_weight = weights.weight("expand_weight", expand_weight);
  spec.expand_bias = weights.weight("expand_bias", expand_bias);
  spec.activation = weights.activation("activation", activation);
  spec.gate = weights.activation("gate", gate);
  return packed_array(spec, allocate);
}

py::array pack_global_avg_pool2d(std::int64_t channels, const py::object& allocate) {
  GlobalPoolSpec spec;
  spec.channels = channels;
  return packed_array(spec, allocate);
}

py::array pack_max_pool2d(std::int64_t channels, const Integers& kernel, const Integers& stride,
                          const py::object& padding, const Integers& dilation,
                          const py::object& allocate) {
  MaxPoolSpec spec;
  spec.channels = channels;
  spec.window = parse_window(spec.op, stride, padding, dilation);
  check(kernel.size() == 2 && kernel[0] >= 1 && kernel[1] >= 1 && kernel[0] <= 1 << 12 &&
            kernel[1] <= 1 << 12,
        spec.op, ": kernel must be two numbers from 1 to 4096, got ", text_of(kernel));
  spec.window.kernel_h = static_cast<std::int32_t>(kernel[0]);
  spec.window.kernel_w = static_cast<std::int32_t>(kernel[1]);
  return packed_array(spec, allocate);
}

py::array pack_channel_shuffle(std::int64_t channels, std::int64_t groups,
                               const py::object& allocate) {
  ChannelShuffleSpec spec;
  spec.channels = channels;
  spec.groups = groups;
  return packed_array(spec, allocate);
}

/// The record of a separable block as part of a unit.
py::array pack_shuffle_unit(const py::object& branch, const py::object& shortcut,
                            const py::object& allocate) {
  const std::string op = "shuffle_unit";
  const py::array main = checked_array<std::uint8_t>(op, "branch", branch, "uint8");
  const Packed packed = packed_view(op, main);
  py::array other;
  Packed other_packed;
  if (!shortcut.is_none()) {
    other = checked_array<std::uint8_t>(op, "shortcut", shortcut, "uint8");
    other_packed = packed_view(op, other);
  }
  return record_array(op, allocate, [&](const Allocate& memory) {
    pack_shuffle_unit(packed, other_packed, memory);
  });
}

py::array pack_shuffle_unit_v1(const py::object& expand_weight, const py::object& expand_bias,
                               const py::object& depthwise_weight, const py::object& depthwise_bias,
                               const py::object& project_weight, const py::object& project_bias,
                               const Integers& stride, const py::object& padding,
                               const Integers& dilation, std::int64_t expand_groups,
                               std::int64_t groups, std::int64_t project_groups,
                               const std::string& expand_activation,
                               const std::string& depthwise_activation,
                               const std::string& activation, const std::string& shortcut,
                               const py::object& allocate) {
  ShuffleUnitV1Spec spec;
  WeightArguments weights(spec.op);
  spec.expand_weight = weights.weight("expand_weight", expand_weight);
  spec.expand_bias = weights.weight("expand_bias", expand_bias);
  spec.depthwise_weight = weights.weight("depthwise_weight", depthwise_weight);
  spec.depthwise_bias = weights.weight("depthwise_bias", depthwise_bias);
  spec.project_weight = weights.weight("project_weight", project_weight);
  spec.project_bias = weights.weight("project_bias", project_bias);
  spec.window = parse_window(spec.op, stride, padding, dilation);
  spec.expand_groups = expand_groups;
  spec.shuffle_groups = groups;
  spec.project_groups = project_groups;
  spec.expand_activation = weights.activation("expand_activation", expand_activation);
  spec.depthwise_activation = weights.activation("depthwise_activation", depthwise_activation);
  spec.activation = weights.activation("activation", activation);
  spec.shortcut = parse_shortcut(spec.op, shortcut);
  return packed_array(spec, allocate);
}

py::array join(const std::vector<py::object>& records) {
  std::vector<py::array> arrays;
  py::ssize_t bytes = 0;
  for (const py::object& record : records) {
    arrays.push_back(checked_array<std::uint8_t>("join", "records", record, "uint8"));
    if (arrays.back().ndim() != 1) {
      throw ValueError(concat("join: records must have 1 dimension each, got shape ",
                              shape_text(arrays.back())));
    }
    if (!is_plain(arrays.back())) arrays.back() = arrays.back().attr("copy")("C");
    bytes += arrays.back().size();
  }
  py::array joined = record_bytes(static_cast<std::size_t>(bytes));
  auto* to = static_cast<std::uint8_t*>(joined.mutable_data());
  for (const py::array& array : arrays) {
    const auto size = static_cast<std::size_t>(array.size());
    if (size > 0) std::memcpy(to, array.data(), size);
    to += size;
  }
  return joined;
}

py::array records_to_float16(const py::object& records, const py::object& allocate) {
  const std::string op = "to_float16";
  const py::array blob = checked_array<std::uint8_t>(op, "records", records, "uint8");
  const Packed packed = packed_view(op, blob);
  return record_array(op, allocate, [&](const Allocate& memory) { to_float16(packed, memory); });
}

bool records_are_float16(const py::object& records) {
  const std::string op = "is_float16";
  const py::array blob = checked_array<std::uint8_t>(op, "records", records, "uint8");
  return is_float16(op, packed_view(op, blob));
}

/// work(view, records, output) with the GIL until the output's memory is asked for; returns y.
template <typename Work>
py::array with_output(const py::object& x, const py::object& records, const std::string& op,
                      Work&& work) {
  const py::array input = checked_array<float>(op, "x", x, "float32");
  const py::array blob = checked_array<std::uint8_t>(op, "records", records, "uint8");
  const TensorView view = input_view(op, input);
  const Packed packed = packed_view(op, blob);
  py::array y;
  std::optional<py::gil_scoped_release> unlocked;
  work(view, packed, [&](const Shape& shape) {
    constexpr auto kItem = static_cast<py::ssize_t>(sizeof(float));
    y = result_array(
        {shape.n, shape.c, shape.h, shape.w},
        {shape.h * shape.w * shape.c * kItem, kItem, shape.w * shape.c * kItem, shape.c * kItem});
    auto* data = static_cast<float*>(y.mutable_data());
    unlocked.emplace();
    return data;
  });
  unlocked.reset();
  return y;
}

py::array run_records(const py::object& x, const py::object& records, const std::string& op,
                      int threads) {
  check(threads >= 0 && threads <= kMaxThreads, op, ": threads must be from 1 to ", kMaxThreads,
        ", got ", threads);
  return with_output(x, records, op,
                     [&](const TensorView& view, Packed packed, const Output& output) {
                       const ThreadsScope scope(threads);
                       run(op, view, packed, output);
                     });
}

py::tuple profile_records(const py::object& x, const py::object& records) {
  Profile found{};
  const std::string op = "profile";
  with_output(x, records, op, [&](const TensorView& view, Packed packed, const Output& output) {
    found = profile(op, view, packed, output);
  });
  py::list calls;
  for (const KernelTime& time : found.kernels) {
    calls.append(py::make_tuple(time.kernel, time.k, time.n, time.calls, time.multiply_adds,
                                time.nanoseconds));
  }
  return py::make_tuple(found.nanoseconds, calls);
}

py::tuple shape_of_output(const Integers& shape, const py::object& records) {
  const std::string op = "output_shape";
  const py::array blob = checked_array<std::uint8_t>(op, "records", records, "uint8");
  const Shape y = output_shape(op, parse_shape(op, shape), packed_view(op, blob));
  return py::make_tuple(y.n, y.c, y.h, y.w);
}

Integers geometry_of(const py::object& records) {
  const py::array blob = checked_array<std::uint8_t>("geometry", "records", records, "uint8");
  return geometry(packed_view("geometry", blob));
}

std::string explain_records(const Integers& shape, const py::object& records, int threads) {
  const py::array blob = checked_array<std::uint8_t>("explain", "records", records, "uint8");
  check(threads >= 1, "explain: threads must be at least 1, got ", threads);
  return explain(parse_shape("explain", shape), packed_view("explain", blob), threads);
}

std::int64_t multiply_adds_of(const Integers& shape, const py::object& records) {
  const std::string op = "multiply_adds";
  const py::array blob = checked_array<std::uint8_t>(op, "records", records, "uint8");
  return multiply_adds(parse_shape(op, shape), packed_view(op, blob));
}

std::vector<std::pair<std::string, std::string>> kernels_with_summaries() {
  std::vector<std::pair<std::string, std::string>> list;
  for (const KernelInfo& kernel : kernel_list()) list.emplace_back(kernel.name, kernel.summary);
  for (const KernelInfo& kernel : half_kernel_list()) {
    list.emplace_back(kernel.name, kernel.summary);
  }
  return list;
}

py::dict cpu_info_dict() {
  const CpuInfo& cpu = cpu_info();
  py::dict info;
  info["model"] = cpu.model;
  info["avx2"] = cpu.avx2;
  info["avx512"] = cpu.avx512;
  info["two_passes"] = cpu.two_passes;
  info["two_ports"] = cpu.two_ports;
  info["banked_l2"] = cpu.banked_l2;
  info["neon"] = cpu.neon;
  info["fp16"] = cpu.fp16;
  info["dotprod"] = cpu.dotprod;
  info["i8mm"] = cpu.i8mm;
  info["in_order"] = cpu.in_order;
  info["l1d_bytes"] = cpu.l1d_bytes;
  info["l2_bytes"] = cpu.l2_bytes;
  info["l3_bytes"] = cpu.l3_bytes;
  return info;
}

std::vector<std::pair<std::string, double>> read_bandwidths(const std::string& isa,
                                                            double seconds) {
  std::vector<std::pair<std::string, double>> levels;
  for (const Bandwidth& level : read_bandwidth(isa, seconds)) {
    levels.emplace_back(level.level, level.gbps);
  }
  return levels;
}

// weebill::ValueError is a std::invalid_argument, which pybind11 maps to ValueError by itself.
void translate(std::exception_ptr pointer) {
  try {
    std::rethrow_exception(std::move(pointer));
  } catch (const TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const NotSupported& error) {
    PyErr_SetString(PyExc_NotImplementedError, error.what());
  }
}

void define_machine(py::module_& m) {
  m.def("isas", &isas, "ISAs that this build holds and this machine runs, best first.");
  m.def("built_isas", &built_isas, "All ISAs that this build holds.");
  m.def("isa", &isa, "The ISA in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Use the kernels of this ISA from now on.");
  m.def("has_float16", &has_float16, "Whether the ISA in use computes in float16.");
  m.def("kernel_list", &kernels_with_summaries, "Pairs (name, summary), one per kernel.");
  m.def("cpu_info", &cpu_info_dict, "What the machine is: model, ISAs, cache sizes in bytes.");
  m.def("activation_names", &activation_names, "The names that activation arguments take.");
  m.def("max_threads", &max_threads, "Threads that the next call may use.");
  m.def("peak_gflops", &peak_gflops, py::arg("isa"), py::arg("seconds"),
        "Measured multiply-adds of one core from registers, 1e9 operations per second.");
  m.def("read_bandwidth", &read_bandwidths, py::arg("isa"), py::arg("seconds"),
        "Measured read bandwidth of one core: pairs (L1, L2, L3 or DRAM, 1e9 bytes per second).");
  m.def("set_threads", &set_pool_threads, py::arg("threads"),
        "Let calls use so many threads from now on; 0: as many as is the default.");
  m.def("usable_cores", &usable_cores, "Cores that this process may use at the same time.");
}

// `allocate` is a function that gives the memory for a record: a uint8 array of so many bytes, on a
// multiple of 64 bytes. None: each record is an array of its own.
void define_packing(py::module_& m) {
  using namespace py::literals;
  m.def("pack_conv2d", &pack_conv2d, "weight"_a, "bias"_a, "stride"_a, "padding"_a, "dilation"_a,
        "groups"_a, "activation"_a, "op"_a = "conv2d", "allocate"_a = py::none(),
        "Record of activation(conv2d(x, weight) + bias).");
  m.def("pack_separable", &pack_separable, py::kw_only(), "expand_weight"_a = py::none(),
        "expand_bias"_a = py::none(), "depthwise_weight"_a, "depthwise_bias"_a = py::none(),
        "se_reduce_weight"_a = py::none(), "se_reduce_bias"_a = py::none(),
        "se_expand_weight"_a = py::none(), "se_expand_bias"_a = py::none(),
        "project_weight"_a = py::none(), "project_bias"_a = py::none(), "stride"_a, "padding"_a,
        "dilation"_a, "expand_activation"_a = "none", "depthwise_activation"_a = "none",
        "se_activation"_a = "relu", "se_gate"_a = "hardsigmoid", "project_activation"_a = "none",
        "residual"_a = false, "op"_a = "inverted_residual", "allocate"_a = py::none(),
        "Record of a depthwise convolution with what may stand around it: expansion, squeeze and "
        "excitation, projection, residual.");
  m.def("pack_squeeze_excite", &pack_squeeze_excite, "reduce_weight"_a, "reduce_bias"_a,
        "expand_weight"_a, "expand_bias"_a, "activation"_a = "relu", "gate"_a = "hardsigmoid",
        "op"_a = "squeeze_excite", "allocate"_a = py::none(),
        "Record of x * gate(expand(activation(reduce(mean(x))))).");
  m.def("pack_global_avg_pool2d", &pack_global_avg_pool2d, "channels"_a, "allocate"_a = py::none(),
        "Record of the mean over height and width.");
  m.def("pack_max_pool2d", &pack_max_pool2d, "channels"_a, "kernel"_a, "stride"_a, "padding"_a,
        "dilation"_a, "allocate"_a = py::none(), "Record of the maximum over a window.");
  m.def("pack_channel_shuffle", &pack_channel_shuffle, "channels"_a, "groups"_a,
        "allocate"_a = py::none(), "Record of a channel shuffle.");
  m.def("pack_shuffle_unit", &pack_shuffle_unit, "branch"_a, "shortcut"_a = py::none(),
        "allocate"_a = py::none(),
        "Record of ShuffleNetV2's unit from the records of its branches (pack_separable).");
  m.def("pack_shuffle_unit_v1", &pack_shuffle_unit_v1, py::kw_only(), "expand_weight"_a,
        "expand_bias"_a, "depthwise_weight"_a, "depthwise_bias"_a, "project_weight"_a,
        "project_bias"_a, "stride"_a, "padding"_a, "dilation"_a, "expand_groups"_a, "groups"_a,
        "project_groups"_a, "expand_activation"_a = "relu", "depthwise_activation"_a = "none",
        "activation"_a = "relu", "shortcut"_a = "none", "allocate"_a = py::none(),
        "Record of ShuffleNetV1's unit.");
  m.def("to_float16", &records_to_float16, "records"_a, "allocate"_a = py::none(),
        "The records with weights rounded to float16: they are computed in it.");
  m.def("is_float16", &records_are_float16, "records"_a, "Whether records are of float16.");
  m.def("join", &join, "records"_a, "One aligned array of several records, to be run in turn.");
}

void define_running(py::module_& m) {
  using namespace py::literals;
  m.def(
      "run", &run_records, "x"_a, "records"_a, "op"_a = "run", "threads"_a = 0,
      "Runs the records on x (n, c, h, w); the result has the memory layout n, h, w, c. `threads` "
      "is for this call; 0: as set_threads() says.");
  m.def("profile", &profile_records, "x"_a, "records"_a,
        "Where the time of a run on one thread goes: nanoseconds of the whole, and one tuple "
        "(kernel, k, n, calls, multiply_adds, nanoseconds) for each kernel and shape of product.");
  m.def("output_shape", &shape_of_output, "shape"_a, "records"_a,
        "Shape of the result for an input of this shape.");
  m.def("geometry", &geometry_of, "records"_a,
        "Six integers per record, from which the shape of the result follows: channels, stride_h, "
        "stride_w, extra_h, extra_w, mode.");
  m.def("explain", &explain_records, "shape"_a, "records"_a, "threads"_a,
        "What a run on this shape would do and why: one line per record.");
  m.def("multiply_adds", &multiply_adds_of, "shape"_a, "records"_a,
        "Multiply-adds of a run on this shape.");
}

}  // namespace
}  // namespace weebill::bindings

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  m.doc() = "Native core of weebill on numpy arrays.";
  m.attr("__version__") = WEEBILL_VERSION;
  py::register_local_exception_translator(&weebill::bindings::translate);
  weebill::bindings::define_machine(m);
  weebill::bindings::define_packing(m);
  weebill::bindings::define_running(m);
  weebill::bindings::define_backward(m);
  weebill::bindings::define_guard(m);
}
