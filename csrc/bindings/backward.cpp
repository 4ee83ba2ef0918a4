// `weebill._C.*_backward`: gradients of convolutions by input, weight and bias, on numpy arrays. A
// gradient that `output_mask` leaves out is an empty array of shape (0,).
#include "bindings/backward.h"

#include <array>

#include "bindings/convert.h"
#include "bindings/numpy_arrays.h"
#include "core/parallel.h"
#include "core/thread_pool.h"

namespace weebill::bindings {
namespace {

using Integers = std::vector<std::int64_t>;
constexpr auto kItem = static_cast<py::ssize_t>(sizeof(float));

/// The arguments that both gradients take, checked, and the three results, made where wanted.
class Backward {
 public:
  Backward(const std::string& op, const py::object& grad_output, const py::object& x,
           const py::object& weight, const std::vector<bool>& mask)
      : weights_(op),
        dy_array_(checked_array<float>(op, "grad_output", grad_output, "float32")),
        x_array_(checked_array<float>(op, "x", x, "float32")),
        dy(input_view(op, dy_array_, "grad_output")),
        view(input_view(op, x_array_)),
        filters(weights_.weight("weight", weight)) {
    check(mask.size() == 3, op, ": output_mask must have 3 entries, got ", mask.size());
    check(filters.shape.size() == 4, op, ": weight must have 4 dimensions, got ",
          filters.shape.size());
    const std::vector<py::ssize_t> filter(filters.shape.begin(), filters.shape.end());
    const py::ssize_t row = filter[3] * kItem;
    gradients_[0] =
        array(mask[0], {view.n, view.c, view.h, view.w},
              {view.h * view.w * view.c * kItem, kItem, view.w * view.c * kItem, view.c * kItem});
    gradients_[1] =
        array(mask[1], filter, {filter[1] * filter[2] * row, filter[2] * row, row, kItem});
    gradients_[2] = array(mask[2], {filter[0]}, {kItem});
    const auto data = [&](std::size_t i) {
      return mask[i] ? static_cast<float*>(gradients_[i].mutable_data()) : nullptr;
    };
    wanted.input = data(0);
    wanted.weight = data(1);
    wanted.bias = data(2);
  }

  py::tuple results() const { return py::make_tuple(gradients_[0], gradients_[1], gradients_[2]); }

 private:
  static py::array array(bool wanted, std::vector<py::ssize_t> shape,
                         std::vector<py::ssize_t> strides) {
    return wanted ? result_array(std::move(shape), std::move(strides)) : result_array({0}, {kItem});
  }

  WeightArguments weights_;
  py::array dy_array_, x_array_;
  std::array<py::array, 3> gradients_;

 public:
  TensorView dy, view;
  Weight filters;
  ConvolutionGradients wanted;
};

py::tuple depthwise(const py::object& grad_output, const py::object& x, const py::object& weight,
                    const Integers& stride, const Integers& padding, const Integers& dilation,
                    const std::vector<bool>& output_mask, int threads) {
  static const std::string op = "depthwise_conv2d_backward";
  const Backward call(op, grad_output, x, weight, output_mask);
  const Window window = window_of(op, stride, padding, dilation);
  {
    const py::gil_scoped_release unlocked;
    const ThreadsScope scope(threads);
    depthwise_conv2d_backward(call.dy, call.view, call.filters, window, call.wanted);
  }
  return call.results();
}

py::tuple pointwise(const py::object& grad_output, const py::object& x, const py::object& weight,
                    const std::vector<bool>& output_mask, int threads) {
  const Backward call("pointwise_conv2d_backward", grad_output, x, weight, output_mask);
  {
    const py::gil_scoped_release unlocked;
    const ThreadsScope scope(threads);
    pointwise_conv2d_backward(call.dy, call.view, call.filters, call.wanted);
  }
  return call.results();
}

}  // namespace

void define_backward(py::module_& m) {
  using namespace py::literals;
  m.def("depthwise_conv2d_backward", &depthwise, "grad_output"_a, "x"_a, "weight"_a, "stride"_a,
        "padding"_a, "dilation"_a, "output_mask"_a, "threads"_a = 0,
        "Gradients of a depthwise convolution by x, weight and bias.");
  m.def("pointwise_conv2d_backward", &pointwise, "grad_output"_a, "x"_a, "weight"_a,
        "output_mask"_a, "threads"_a = 0,
        "Gradients of a 1 x 1 convolution by x, weight and bias.");
}

}  // namespace weebill::bindings
