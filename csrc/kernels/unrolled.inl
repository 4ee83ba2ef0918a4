// Loops whose counter is a constant in each round. One function with all rounds: a chain of
// functions, one a round, compiled the last of them as often as there were rounds.

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

template <int... kValues>
struct Constants {};
// From 0 to kCount - 1.
template <int kCount, int... kValues>
struct Counted : Counted<kCount - 1, kCount - 1, kValues...> {};
template <int... kValues>
struct Counted<0, kValues...> {
  using All = Constants<kValues...>;
};

template <int kFrom, typename Step, int... kRounds>
inline __attribute__((always_inline)) void unrolled(Step& step, Constants<kRounds...>) {
  (step(Constant<kFrom + kRounds>{}), ...);
}
template <int kFrom, int kTo, typename Step>
inline __attribute__((always_inline)) void unrolled(Step&& step) {
  if constexpr (kFrom < kTo) unrolled<kFrom>(step, typename Counted<kTo - kFrom>::All{});
}

// Of kColumns windows of kTaps inputs, each kStride behind the one before: those with input kInput.
template <int kTaps, int kStride, int kColumns, int kInput>
struct Meeting {
  static constexpr int kFirst = kInput < kTaps ? 0 : (kInput - kTaps) / kStride + 1;
  static constexpr int kLast = kInput / kStride;
  static constexpr int kEnd = kLast < kColumns ? kLast + 1 : kColumns;
};
