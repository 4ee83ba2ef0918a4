// What the tests of whole records share: inputs of every memory layout, guarded weights, thread
// hooks, and one call that runs packed records in every way there is and compares with the oracle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "core/plan.h"
#include "core/status.h"
#include "core/weebill.h"
#include "guarded.h"
#include "harness.h"
#include "reference.h"

namespace weebill::testing {

// ------ threads

/// How parallel_for's tasks are run while the object lives; serial again afterwards.
class ParallelMode {
 public:
  /// 1: serial; n: n - 1 new std::threads serve each call.
  explicit ParallelMode(int threads);
  /// A team of `threads` of which only the leader comes: it takes its own tasks, and then those of
  /// the others from the last.
  static ParallelMode alone(int threads);
  ~ParallelMode();
  ParallelMode(const ParallelMode&) = delete;
  ParallelMode& operator=(const ParallelMode&) = delete;

 private:
  using WithTeam = decltype(ParallelHook::with_team);
  ParallelMode(int threads, WithTeam with_team);
};

// ------ inputs

enum class Layout {
  kNhwc,        ///< dense channels_last
  kNchw,        ///< dense contiguous
  kNhwcSlice,   ///< some channels of a wider NHWC tensor
  kNchwCrop,    ///< a window of a larger NCHW image
  kTransposed,  ///< height and width swapped in memory
  kSparse,      ///< every other element along every axis
  kBroadcast,   ///< stride 0 over the batch and the rows
};
extern const std::vector<Layout> kLayouts;
const char* layout_name(Layout layout);

struct Input {
  TensorView view;  ///< data is set by run_records, to a guarded copy of storage
  std::vector<float> storage;
  Layout layout;
};

/// Random data; whole numbers with `integers`. What the view does not reach is poisoned.
Input make_input(const Shape& shape, Layout layout, bool integers);
reference::Tensor to_tensor(const Input& input);

// ------ weights

/// Weights between guard pages, so that pack() is tested for overruns too.
class Weights {
 public:
  explicit Weights(bool integers) : integers_(integers) {}
  Weight make(const char* name, const std::vector<std::int64_t>& shape);
  /// Null in one of three cases.
  Weight maybe_bias(const char* name, std::int64_t channels);
  bool integers() const { return integers_; }
  /// Nothing was written to any of them.
  bool unchanged() const;

 private:
  bool integers_;
  std::vector<std::vector<float>> values_;
  std::vector<std::unique_ptr<Guarded<float>>> buffers_;
};

/// One that maps whole numbers to whole numbers, if asked to.
Activation any_activation(bool keep_integers);

// ------ float16

/// A test that is run for float32 and, under the name with _float16, for float16: in the second
/// inputs and weights are numbers that a half can hold, run_records() converts the records, and the
/// oracle's bounds are those of float16. `integers` means nothing there: not all would be exact.
#define WEEBILL_RECORD_TEST(name)                                 \
  static void records_##name();                                   \
  WEEBILL_TEST(name) { records_##name(); }                        \
  WEEBILL_TEST(name##_float16) {                                  \
    const reference::PrecisionScope float16(reference::kFloat16); \
    records_##name();                                             \
  }                                                               \
  static void records_##name()

inline bool in_float16() { return reference::precision().unit != reference::kUnit; }
/// Few cases do: with --quick, and for float16, whose drivers are those of float32.
inline bool few_cases() { return options().quick || in_float16(); }

// ------ running

using Bytes = std::vector<std::byte>;

std::string shape_text(const Shape& shape);

/// The oracle's answer; `exact` if it must come out to the bit.
struct Expected {
  reference::Tensor tensor;
  bool exact;
};

/// Runs the records on the input for every tested ISA, fusion policy, several thread hooks and both
/// sides of the guard pages. Compares the first run with the oracle and the others with the first,
/// bit by bit (per ISA). `what` describes the records in failures.
void run_records(const std::string& what, const Bytes& records, const Input& input,
                 const Expected& expected);

/// As run() on guarded copies, under the present ISA, policy and hook.
std::vector<float> run_guarded(const Bytes& records, const Input& input, const Shape& output,
                               Flush flush);

/// The oracle's output has no pixels: output_shape and run must say so with a ValueError.
void expect_refused(const std::string& what, const Bytes& records, const Input& input);

// ------ random geometry

struct AnyWindow {
  Window window;
  std::int64_t kernel_h, kernel_w;
};
AnyWindow any_window();
std::int64_t any_channels();
Shape any_image(std::int64_t channels);
Layout any_layout_of_input();

/// For messages.
std::string window_text(const Window& window, std::int64_t kernel_h, std::int64_t kernel_w);

}  // namespace weebill::testing
