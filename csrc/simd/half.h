// IEEE half precision (float16) as tensors and records hold it, and its conversions in plain C++.
// Internal linkage throughout: the sources of isa/ may not have symbols in common.
#pragma once

#include <cstdint>

namespace weebill {

struct Half {
  std::uint16_t bits;
};

/// The largest finite number.
constexpr float kHalfMax = 65504.0f;

/// Exact.
[[maybe_unused]] static inline float to_float(Half half) {
  const std::uint32_t magnitude = half.bits & 0x7fffu;
  std::uint32_t bits = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity or NaN, made quiet
    bits |= 0x7f800000u | (magnitude & 0x3ffu) << 13 | (magnitude > 0x7c00u ? 0x400000u : 0u);
  } else if (magnitude >= 0x400u) {
    bits |= (magnitude << 13) + (112u << 23);
  } else {  // zero, or a denormal: magnitude * 2^-24
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    return bits == 0 ? value : -value;
  }
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

/// To the nearest, ties to even; beyond kHalfMax by half a unit and more: infinity.
[[maybe_unused]] static inline Half to_half(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  std::uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00u | (bits >> 13 & 0x3ffu);
  } else if (bits >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (bits >= 0x38800000u) {
    half = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13;
  } else {  // denormal: the sum drops what lies below 2^-24
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    __builtin_memcpy(&half, &magnitude, sizeof half);
    half -= 0x3f000000u;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

}  // namespace weebill
