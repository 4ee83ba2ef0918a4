// Records of float16: how they are made, refused and run. What they compute is tested beside
// float32, by the tests that end in _float16.
#include "core/record.h"
#include "kernel_cases.h"
#include "record_cases.h"

namespace weebill::testing {
namespace {

Bytes to_half_records(const Bytes& records) {
  const Guarded<std::byte> blob("records", records, Flush::kEnd, 64);
  Bytes halves;
  to_float16({blob.data(), blob.size()}, [&halves](std::size_t bytes) {
    halves.resize(bytes);
    return halves.data();
  });
  return halves;
}

Bytes pointwise_record(const std::vector<float>& weight, std::int64_t c_out) {
  Conv2dSpec spec;
  const auto c_in = static_cast<std::int64_t>(weight.size()) / c_out;
  spec.weight = {weight.data(), {c_out, c_in, 1, 1}};
  return pack(spec);
}

RecordHeader& header_of(Bytes& records) { return *reinterpret_cast<RecordHeader*>(records.data()); }

WEEBILL_TEST(half_records_are_half_as_large) {
  const Bytes floats = pointwise_record(rng().reals(64 * 48), 64);
  Bytes halves = to_half_records(floats);
  WEEBILL_EXPECT(2 * (halves.size() - kHeaderBytes) == floats.size() - kHeaderBytes);
  WEEBILL_EXPECT(header_of(halves).bytes == halves.size());
  WEEBILL_EXPECT(is_float16("test", {halves.data(), halves.size()}));
  WEEBILL_EXPECT(!is_float16("test", {floats.data(), floats.size()}));
  WEEBILL_EXPECT(to_half_records(halves) == halves);
}

WEEBILL_TEST(half_weights_beyond_the_range_are_refused) {
  WEEBILL_EXPECT(!to_half_records(pointwise_record({65504, -65519, 1e-30f}, 3)).empty());
  const Bytes infinite = pointwise_record({INFINITY, -INFINITY, NAN}, 3);
  WEEBILL_EXPECT(!to_half_records(infinite).empty());
  for (float weight : {65520.0f, -1e6f}) {
    const Bytes large = pointwise_record({1, weight}, 2);
    WEEBILL_EXPECT_THROW(ValueError, "to_float16", to_half_records(large));
  }
}

WEEBILL_TEST(half_records_that_were_changed_are_refused) {
  const Bytes floats = pointwise_record(rng().reals(64), 8);
  for (const std::int16_t element : {1, 2, -1}) {
    Bytes changed = floats;
    header_of(changed).element = static_cast<ElementType>(element);
    const Guarded<std::byte> blob("records", changed, Flush::kEnd, 64);
    const Packed packed{blob.data(), blob.size()};
    WEEBILL_EXPECT_THROW(ValueError, "test", output_shape("test", {1, 8, 2, 2}, packed));
  }
}

WEEBILL_TEST(half_and_float_records_do_not_mix) {
  const Bytes floats = pointwise_record(rng().reals(64), 8);
  const Input input = make_input({1, 8, 2, 2}, Layout::kNhwc, false);
  for (bool half_first : {false, true}) {
    const Bytes halves = to_half_records(floats);
    Bytes mixed = half_first ? halves : floats;
    const Bytes& other = half_first ? floats : halves;
    mixed.insert(mixed.end(), other.begin(), other.end());
    const std::string before = isa();
    set_isa("scalar");
    WEEBILL_EXPECT_THROW(ValueError, "test", run_guarded(mixed, input, {1, 8, 2, 2}, Flush::kEnd));
    WEEBILL_EXPECT_THROW(ValueError, "to_float16", to_half_records(mixed));
    set_isa(before);
  }
}

WEEBILL_TEST(half_records_need_an_instruction_set_that_computes_in_it) {
  const Bytes halves = to_half_records(pointwise_record(rng().reals(64), 8));
  const Input input = make_input({1, 8, 2, 2}, Layout::kNhwc, false);
  const std::string before = isa();
  for (const std::string& name : isas()) {
    set_isa(name);
    set_case("isa %s", name.c_str());
    WEEBILL_EXPECT(has_float16() == (half_kernels_of(name) != nullptr));
    if (has_float16()) {
      run_guarded(halves, input, {1, 8, 2, 2}, Flush::kEnd);
    } else {
      WEEBILL_EXPECT_THROW(NotSupported, "test",
                           run_guarded(halves, input, {1, 8, 2, 2}, Flush::kEnd));
    }
  }
  set_isa(before);
}

/// Halves in and out are what floats are rounded to and widened from.
WEEBILL_TEST(half_tensors) {
  const Bytes halves = to_half_records(pointwise_record(rng().reals(24 * 40), 40));
  const Shape out{2, 40, 3, 5};
  const std::string before = isa();
  for (const std::string& name : isas()) {
    set_isa(name);
    if (!has_float16()) continue;
    for (Layout layout : kLayouts) {
      set_case("isa %s %s", name.c_str(), layout_name(layout));
      const Input input = make_input({2, 24, 3, 5}, layout, false);
      const std::vector<float> expected = run_guarded(halves, input, out, Flush::kEnd);
      const Guarded<std::byte> blob("records", halves, Flush::kEnd, 64);
      const Guarded<Half> x("x", elements<Half>(input.storage), Flush::kEnd);
      const Guarded<Half> y("y", expected.size(), Flush::kEnd);
      const TensorView& v = input.view;
      const HalfTensorView view{x.data(),   v.n,        v.c,        v.h,       v.w,
                                v.stride_n, v.stride_c, v.stride_h, v.stride_w};
      run("test", view, {blob.data(), blob.size()}, y.data());
      const auto size = static_cast<std::int64_t>(expected.size());
      expect_same_bits(gather(y, size, 1, [](std::int64_t i) { return i; }), expected, 1);
    }
  }
  set_isa(before);
}

}  // namespace
}  // namespace weebill::testing
