// What the core under us can do at most: multiply-adds from registers, and reads from each cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weebill::bench {

/// GFLOP/s of one core with the instructions of this ISA, from registers only.
double peak_gflops(const std::string& isa, double seconds);

struct Bandwidth {
  std::string level;   ///< L1, L2, L3, DRAM
  std::int64_t bytes;  ///< that were read over and over
  double gbps;         ///< 1e9 bytes per second
};
/// Read bandwidth of one core.
std::vector<Bandwidth> read_bandwidth(const std::string& isa, double seconds);

}  // namespace weebill::bench
