// Lists of records: intermediates, mismatches, and several networks at once.
#include <atomic>
#include <thread>

#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

/// A growing list of records with the oracle's answer so far.
class Network {
 public:
  Network(const Input& input, bool integers) : weights_(integers), tensor_(to_tensor(input)) {}

  const Bytes& records() const { return records_; }
  const reference::Tensor& tensor() const { return tensor_; }
  const std::string& text() const { return text_; }

  void conv2d(std::int64_t c_out, std::int32_t kernel, std::int32_t stride) {
    Conv2dSpec spec;
    spec.weight = weights_.make("weight", {c_out, tensor_.shape.c, kernel, kernel});
    spec.bias = weights_.maybe_bias("bias", c_out);
    spec.window.kernel_h = spec.window.kernel_w = kernel;
    spec.window.stride_h = spec.window.stride_w = stride;
    spec.window.same = 1;
    spec.activation = any_activation(weights_.integers());
    append(format("conv2d %d/%d", kernel, stride), pack(spec), reference::conv2d(spec, tensor_));
  }

  void separable(std::int64_t c_mid, std::int64_t c_out, std::int32_t kernel, std::int32_t stride,
                 std::int64_t c_se) {
    SeparableSpec spec;
    const std::int64_t c_in = tensor_.shape.c;
    spec.expand_weight = weights_.make("expand_weight", {c_mid, c_in, 1, 1});
    spec.depthwise_weight = weights_.make("depthwise_weight", {c_mid, 1, kernel, kernel});
    spec.depthwise_bias = weights_.maybe_bias("depthwise_bias", c_mid);
    if (c_se > 0) {
      spec.se_reduce_weight = weights_.make("se_reduce_weight", {c_se, c_mid, 1, 1});
      spec.se_expand_weight = weights_.make("se_expand_weight", {c_mid, c_se, 1, 1});
    }
    spec.project_weight = weights_.make("project_weight", {c_out, c_mid, 1, 1});
    spec.window.kernel_h = spec.window.kernel_w = kernel;
    spec.window.stride_h = spec.window.stride_w = stride;
    spec.window.pad_top = spec.window.pad_left = kernel / 2;
    spec.window.pad_bottom = spec.window.pad_right = kernel / 2;
    // Whole numbers stay below 2^24 through several blocks only if they are cut back.
    spec.expand_activation = weights_.integers() ? Activation::kRelu6 : any_activation(false);
    spec.depthwise_activation = weights_.integers() ? Activation::kRelu6 : any_activation(false);
    spec.residual = stride == 1 && c_in == c_out;
    append(format("separable %d/%d", kernel, stride), pack(spec),
           reference::separable(spec, tensor_));
  }

  /// False, and nothing appended, where the window does not fit the image.
  bool max_pool(const Window& window) {
    MaxPoolSpec spec;
    spec.channels = tensor_.shape.c;
    spec.window = window;
    const reference::Geometry g =
        reference::geometry(window, window.kernel_h, window.kernel_w, tensor_.shape);
    if (g.vertical.size <= 0 || g.horizontal.size <= 0) return false;
    append("max_pool " + window_text(window, window.kernel_h, window.kernel_w), pack(spec),
           reference::max_pool(window, tensor_));
    return true;
  }

  void pool() {
    GlobalPoolSpec spec;
    spec.channels = tensor_.shape.c;
    append("pool", pack(spec), reference::global_pool(tensor_));
  }

  void append(const std::string& text, const Bytes& record, reference::Tensor answer) {
    text_ += (text_.empty() ? "" : ", ") + text;
    records_.insert(records_.end(), record.begin(), record.end());
    tensor_ = std::move(answer);
  }

 private:
  Weights weights_;
  reference::Tensor tensor_;
  Bytes records_;
  std::string text_;
};

void any_record(Network& network, bool integers) {
  const auto kernel = static_cast<std::int32_t>(rng().pick(Sizes{1, 3, 3, 5}));
  const auto stride = static_cast<std::int32_t>(rng().integer(1, 2));
  if (rng().integer(0, 2) == 0) {
    network.conv2d(any_channels(), kernel, stride);
  } else {
    const std::int64_t c_se = !integers && rng().integer(0, 2) == 0 ? 8 : 0;
    const std::int64_t c_out = rng().coin() ? network.tensor().shape.c : any_channels();
    network.separable(any_channels(), c_out, kernel, stride, c_se);
  }
}

WEEBILL_RECORD_TEST(network_random) {
  const int networks = few_cases() ? 12 : 100;
  for (int i = 0; i < networks; ++i) {
    const bool integers = rng().coin();
    const Input input = make_input(any_image(any_channels()), any_layout_of_input(), integers);
    Network network(input, integers);
    // Two records of whole numbers; more would leave the range in which they are exact.
    const std::int64_t length = integers ? 2 : rng().integer(2, 5);
    for (std::int64_t k = 0; k < length; ++k) any_record(network, integers);
    if (!integers && rng().coin()) {
      network.pool();
      network.conv2d(any_channels(), 1, 1);
    }
    run_records(network.text(), network.records(), input, {network.tensor(), integers});
  }
}

/// A convolution and the pooling after it, which share their rows.
WEEBILL_RECORD_TEST(network_conv2d_and_max_pool) {
  const int networks = few_cases() ? 20 : 150;
  for (int i = 0; i < networks; ++i) {
    const bool integers = rng().coin();
    const std::int64_t images = rng().integer(0, 3) == 0 ? 2 : 1;
    const Shape shape = {images, rng().pick(Sizes{1, 3, 17}), rng().integer(1, 40),
                         rng().integer(1, 40)};
    const Input input = make_input(shape, any_layout_of_input(), integers);
    Network network(input, integers);
    network.conv2d(rng().pick(Sizes{1, 3, 17, 24, 50}), rng().coin() ? 3 : 1,
                   static_cast<std::int32_t>(rng().integer(1, 2)));
    Window w = any_window().window;
    w.pad_top = std::min(w.pad_top, w.kernel_h / 2);
    w.pad_bottom = std::min(w.pad_bottom, w.kernel_h / 2);
    w.pad_left = std::min(w.pad_left, w.kernel_w / 2);
    w.pad_right = std::min(w.pad_right, w.kernel_w / 2);
    if (!network.max_pool(w)) continue;
    if (rng().coin()) network.conv2d(8, 1, 1);
    run_records(network.text(), network.records(), input, {network.tensor(), integers});
  }
}

WEEBILL_TEST(network_refuses_mismatches) {
  const Input input = make_input({1, 8, 9, 9}, Layout::kNhwc, false);
  Network network(input, false);
  network.conv2d(16, 3, 2);
  Network other(make_input({1, 24, 5, 5}, Layout::kNhwc, false), false);
  other.conv2d(8, 1, 1);
  Bytes mismatched = network.records();
  mismatched.insert(mismatched.end(), other.records().begin(), other.records().end());
  expect_refused("16 channels into a record for 24", mismatched, input);
  expect_refused("8 channels into a record for 24", other.records(), input);
  expect_refused("no record", {}, input);
}

/// Several threads run networks of their own and one shared one: same bits as alone.
WEEBILL_TEST(network_many_threads_at_once) {
  const std::int64_t side = options().quick ? 12 : 28;
  const Input input = make_input({1, 3, side, side}, Layout::kNchw, false);
  Network shared(input, false);
  shared.conv2d(16, 3, 2);
  shared.separable(50, 24, 3, 2, 0);
  shared.separable(72, 24, 5, 1, 8);
  shared.pool();
  shared.conv2d(33, 1, 1);
  const Shape& shape = shared.tensor().shape;
  const std::size_t size = shared.tensor().data.size();
  const std::vector<float> alone = run_guarded(shared.records(), input, shape, Flush::kEnd);
  for (int hook_threads : {1, 2}) {
    const ParallelMode mode(hook_threads);
    set_case("hook of %d threads", hook_threads);
    // torch aligns its tensors to 64 bytes; so does this buffer.
    const Guarded<std::byte> blob("records", shared.records(), Flush::kEnd, 64);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        TensorView view = input.view;
        view.data = input.storage.data();
        std::vector<float> y(size);
        for (int repeat = 0; repeat < (options().quick ? 5 : 40); ++repeat) {
          std::fill(y.begin(), y.end(), NAN);
          run("test", view, {blob.data(), blob.size()}, y.data());
          if (std::memcmp(y.data(), alone.data(), size * sizeof(float)) != 0) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    WEEBILL_EXPECT(wrong == 0);
  }
}

/// Small after large after small: a workspace that is kept between calls must not be taken for
/// larger than it is, nor its old contents for data.
WEEBILL_TEST(network_workspace_reuse) {
  for (std::int64_t side : {5, 33, 2, 20, 1}) {
    const Input input = make_input({1, 16, side, side}, Layout::kNhwc, true);
    Network network(input, true);
    network.separable(40, 16, 5, 1, 0);
    network.separable(40, 24, 3, 2, 0);
    run_records(network.text(), network.records(), input, {network.tensor(), true});
  }
}

}  // namespace
}  // namespace weebill::testing
