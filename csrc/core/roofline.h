// What the core under us can do at most: multiply-adds from registers, and reads from each cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/weebill.h"

namespace weebill {

/// GFLOP/s of one core with the instructions of this ISA, from registers only; the best of as many
/// short runs as fit into `seconds`. Throws ValueError for an ISA that this machine can't run.
WEEBILL_API double peak_gflops(const std::string& isa, double seconds);

struct Bandwidth {
  std::string level;   ///< L1, L2, L3, DRAM
  std::int64_t bytes;  ///< that were read over and over
  double gbps;         ///< 1e9 bytes per second
};
/// Read bandwidth of one core.
WEEBILL_API std::vector<Bandwidth> read_bandwidth(const std::string& isa, double seconds);

}  // namespace weebill
