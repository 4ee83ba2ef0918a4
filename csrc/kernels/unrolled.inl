// Loops whose counter is a constant in each round.

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

template <int kFrom, int kTo, typename Step>
inline __attribute__((always_inline)) void unrolled(Step&& step) {
  if constexpr (kFrom < kTo) {
    step(Constant<kFrom>{});
    unrolled<kFrom + 1, kTo>(step);
  }
}
