// Squeeze-and-excitation and global pooling as records of their own.
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

void check_squeeze_excite(const Shape& x, std::int64_t c_se, Layout layout, Activation activation,
                          Activation gate) {
  Weights weights(false);
  SqueezeExciteSpec spec;
  spec.reduce_weight = weights.make("reduce_weight", {c_se, x.c, 1, 1});
  spec.reduce_bias = weights.maybe_bias("reduce_bias", c_se);
  spec.expand_weight = weights.make("expand_weight", {x.c, c_se, 1, 1});
  spec.expand_bias = weights.maybe_bias("expand_bias", x.c);
  spec.activation = activation;
  spec.gate = gate;
  const std::string what =
      format("squeeze_excite c_se %lld activation %d gate %d", static_cast<long long>(c_se),
             static_cast<int>(activation), static_cast<int>(gate));
  set_case("%s: pack", what.c_str());
  const Bytes record = pack(spec);
  WEEBILL_EXPECT(weights.unchanged());
  const Input input = make_input(x, layout, false);
  run_records(what, record, input, {reference::squeeze_excite(spec, to_tensor(input)), false});
}

WEEBILL_RECORD_TEST(squeeze_excite_random) {
  const int cases = few_cases() ? 30 : 200;
  for (int i = 0; i < cases; ++i) {
    check_squeeze_excite(any_image(any_channels()), rng().pick(Sizes{1, 2, 5, 8, 16, 17}),
                         any_layout_of_input(), any_activation(false), any_activation(false));
  }
}

WEEBILL_TEST(squeeze_excite_every_gate) {
  for (std::int32_t activation : {kActRelu, kActSilu}) {
    for (std::int32_t gate : {kActHardsigmoid, kActHardsigmoidPaddle, kActSigmoid}) {
      check_squeeze_excite({2, 40, 7, 7}, 10, Layout::kNhwc, static_cast<Activation>(activation),
                           static_cast<Activation>(gate));
    }
  }
}

WEEBILL_RECORD_TEST(global_pool_random) {
  const int cases = few_cases() ? 30 : 200;
  for (int i = 0; i < cases; ++i) {
    GlobalPoolSpec spec;
    spec.channels = any_channels();
    const Input input = make_input(any_image(spec.channels), any_layout_of_input(), false);
    run_records("global_avg_pool2d", pack(spec), input,
                {reference::global_pool(to_tensor(input)), false});
  }
}

}  // namespace
}  // namespace weebill::testing
