// Up to 18 vectors or pixels a stride apart, each reached by one operand of an instruction: two
// pointers and four multiples of the stride, times 1, 2, 4 or 8. Left to itself the compiler keeps
// an address for each, and most of those on the stack.
#pragma once

#include <stdint.h>

// Keeps the compiler from knowing what x is, and from working out ahead what is added to it.
template <typename T>
inline void hide(T& x) {
  __asm__("" : "+r"(x));
}
// The same of p, which is not worked out anew wherever it is used.
inline const float* hidden(const float* p) {
  hide(p);
  return p;
}

struct Strided {
  const float *p, *p9;              // number 0, number 9
  int64_t one, three, five, seven;  // multiples of the stride, in bytes

  Strided() = default;
  Strided(const float* first, int64_t stride)
      : p(first),
        p9(first + 9 * stride),
        one(4 * stride),
        three(12 * stride),
        five(20 * stride),
        seven(28 * stride) {}
};

// Number kIndex is at base() + multiple() * kScale; at base() where kIsBase.
template <int kIndex>
struct StridedIndex {
  static_assert(0 <= kIndex && kIndex < 18);
  static constexpr int kRest = kIndex % 9;
  static constexpr bool kIsBase = kRest == 0;
  static constexpr int kOdd = kRest % 2 == 1 ? kRest : kRest == 6 ? 3 : 1;
  static constexpr int kScale = kRest / kOdd;
  static const float* base(const Strided& x) { return kIndex < 9 ? x.p : x.p9; }
  static int64_t multiple(const Strided& x) {
    return kOdd == 1 ? x.one : kOdd == 3 ? x.three : kOdd == 5 ? x.five : x.seven;
  }
};
