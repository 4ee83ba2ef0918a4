// What the machine is: instruction sets and cache sizes.
#pragma once

#include <cstdint>
#include <string>

#include "core/weebill.h"

namespace weebill {

struct CpuInfo {
  std::string model;        ///< as the machine calls itself, or "unknown"
  bool avx2 = false;        ///< AVX2, FMA, F16C, BMI, and the system saves the registers
  bool avx512 = false;      ///< AVX-512 F, BW, DQ, VL, CD, and the system saves the registers
  bool two_passes = false;  ///< an AVX-512 operation is done by units of 256 bits, in two passes
  bool two_ports = false;   ///< AVX-512 operations of every kind take one of the FMAs' two ports
  bool banked_l2 = false;   ///< lines an even number apart share banks of the second cache: Intel's
  bool foresees_tiles = false;  ///< lines are fetched before a tile's columns read them: Intel's
  bool neon = false;            ///< AArch64 Advanced SIMD
  bool fp16 = false;            ///< half-precision arithmetic: armv8.2's FEAT_FP16 (asimdhp)
  bool dotprod = false;         ///< int8 dot products: FEAT_DotProd (asimddp)
  bool i8mm = false;            ///< int8 matrix products: FEAT_I8MM
  bool in_order = false;        ///< every usable core is an ARM core that issues in order
  std::int64_t l1d_bytes = 32 << 10;
  std::int64_t l2_bytes = 512 << 10;
  std::int64_t l3_bytes = 0;  ///< 0 where there is none
};

/// Read once, at the first call.
WEEBILL_API const CpuInfo& cpu_info();

/// Cores that this process may use at the same time, at least 1: the physical ones among the
/// processors that it is bound to, but no more than its control group's quota of CPU time. Read at
/// every call.
WEEBILL_API int usable_cores();

}  // namespace weebill
