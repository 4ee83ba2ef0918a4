// Where the time of a run goes: every kernel call timed. Nothing in a usual run knows of this.
#pragma once

#include <cstdint>
#include <vector>

#include "core/weebill.h"

namespace weebill {

/// The calls of one kernel, for products of one shape: k input and n output channels (else 0).
struct KernelTime {
  const char* kernel;
  std::int64_t k, n;
  std::int64_t calls;
  std::int64_t multiply_adds;  ///< that the calls made; 0 where that says nothing
  double nanoseconds;
};

struct Profile {
  double nanoseconds;  ///< of the whole run
  std::vector<KernelTime> kernels;
};

/// run() on one thread, once. What reading the clock costs is measured and taken off again.
WEEBILL_API Profile profile(const std::string& op, const TensorView& x, Packed records,
                            const Output& output);

}  // namespace weebill
