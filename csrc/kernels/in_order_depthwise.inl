// Depthwise tiles for cores that issue in order (Cortex-A35, A53, A55), where a load of 128 bits
// holds everything up for two cycles: each is two of 64 bits here, as in scheduled.inl. There is no
// time to load a row's weights for every seven columns either.
//
// 3 x 3: the weights stay in registers while a tile of 7 columns slides along the row, and so do
// the inputs that the next tile shares: 3 loads per output at stride 1, 6 at stride 2. One kernel
// row's FMAs follow the other's without a seam. 5 x 5: 14 columns, or 7, and one kernel row at a
// time, with taps and first inputs of the next row or tile loaded meanwhile: 8.2 loads per output
// at stride 1, 12.9 at stride 2.
//
// Every instruction on vectors is an asm statement that names its registers, and the functions that
// hold them may not use such registers otherwise: left to gcc 12, the loads' halves were copied
// about, each copy in the way of an FMA.
#include "kernels/in_order_schedule.inl"

#pragma GCC push_options
#pragma GCC target("general-regs-only")

// Distances of 1 to 4 inputs, in bytes.
struct Distances {
  int64_t by[5];
  explicit Distances(int64_t stride) : by{0, 4 * stride, 8 * stride, 12 * stride, 16 * stride} {}
};

// Instructions on vector registers, which are numbers here.
#define WEEBILL_ON_REGISTERS              \
  template <int to, int a = 0, int b = 0> \
  inline __attribute__((always_inline))
WEEBILL_ON_REGISTERS void vector_copy() {
  __asm__ volatile("mov v%c0.16b, v%c1.16b" : : "i"(to), "i"(a));
}
WEEBILL_ON_REGISTERS void vector_fma() {
  __asm__ volatile("fmla v%c0.4s, v%c1.4s, v%c2.4s" : : "i"(to), "i"(a), "i"(b));
}
WEEBILL_ON_REGISTERS void vector_add() {
  __asm__ volatile("fadd v%c0.4s, v%c1.4s, v%c2.4s" : : "i"(to), "i"(a), "i"(b));
}
WEEBILL_ON_REGISTERS void vector_mul() {
  __asm__ volatile("fmul v%c0.4s, v%c1.4s, v%c2.4s" : : "i"(to), "i"(a), "i"(b));
}
WEEBILL_ON_REGISTERS void vector_max() {
  __asm__ volatile("fmax v%c0.4s, v%c1.4s, v%c2.4s" : : "i"(to), "i"(a), "i"(b));
}
WEEBILL_ON_REGISTERS void vector_min() {
  __asm__ volatile("fmin v%c0.4s, v%c1.4s, v%c2.4s" : : "i"(to), "i"(a), "i"(b));
}
// Loads of the whole vector; of lanes 0 and 1; of lanes 2 and 3; and what puts these in.
WEEBILL_ON_REGISTERS void vector_load(const float* p) {
  __asm__ volatile("ldr q%c0, [%1]" : : "i"(to), "r"(p));
}
WEEBILL_ON_REGISTERS void vector_low(const float* p, const Distances& d) {
  if constexpr (a == 0) {
    __asm__ volatile("ldr d%c0, [%1, #%c2]" : : "i"(to), "r"(p), "i"(b));
  } else {
    __asm__ volatile("ldr d%c0, [%1, %2]" : : "i"(to), "r"(p), "r"(d.by[a]));
  }
}
template <int steps, int bytes>
inline __attribute__((always_inline)) uint64_t vector_high(const float* p, const Distances& d) {
  uint64_t high;
  if constexpr (steps == 0) {
    __asm__ volatile("ldr %x0, [%1, #%c2]" : "=r"(high) : "r"(p), "i"(bytes + 8));
  } else {
    __asm__ volatile("ldr %x0, [%1, %2]" : "=r"(high) : "r"(p), "r"(d.by[steps] + 8));
  }
  return high;
}
WEEBILL_ON_REGISTERS void vector_join(uint64_t high) {
  __asm__ volatile("ins v%c0.d[1], %x1" : : "i"(to), "r"(high));
}
WEEBILL_ON_REGISTERS void vector_store(float* p) {
  __asm__ volatile("str q%c0, [%1]" : : "i"(to), "r"(p) : "memory");
}
// Stores at p and moves p on.
WEEBILL_ON_REGISTERS void vector_store(float*& p, int64_t bytes) {
  __asm__ volatile("st1 {v%c1.4s}, [%0], %2" : "+r"(p) : "i"(to), "r"(bytes) : "memory");
}
#undef WEEBILL_ON_REGISTERS
inline __attribute__((always_inline)) void advance_now(const float*& p, int64_t bytes) {
  __asm__ volatile("add %0, %0, %1" : "+r"(p) : "r"(bytes));
}

// Where a row's next inputs lie, and a row's taps: `next` is of the row after.
template <int kKernel, int kStride, int kColumns, int kRows>
struct DepthwiseAddresses {
  using Schedule = DepthwiseSchedule<kKernel, kStride, kColumns, kRows>;
  const float* from[kRows];
  const float* next;
  const float *w, *next_w;
  uint64_t high[Schedule::kLoads];
};

// Steps kFrom to kTo of a schedule.
template <int kFrom, int kTo, int kKernel, int kStride, int kColumns, int kRows>
inline __attribute__((always_inline)) void run_steps(
    DepthwiseAddresses<kKernel, kStride, kColumns, kRows>& at, const Distances& d) {
  using Schedule = DepthwiseSchedule<kKernel, kStride, kColumns, kRows>;
  constexpr const Schedule& kSchedule = kDepthwiseSchedule<kKernel, kStride, kColumns, kRows>;
  static_assert(kSchedule.fits);
  unrolled<kFrom, kTo>([&](auto n) __attribute__((always_inline)) {
    constexpr Step kStep = kSchedule.steps[decltype(n)::value];
    constexpr RowLoad kLoad = kSchedule.loads[kStep.load];
    constexpr bool kTap = kLoad.input < 0;
    constexpr int kGroup = kTap ? 0 : (kLoad.input - Schedule::kKept) % 4;
    constexpr int kBytes = kTap ? kLoad.tap * static_cast<int>(kBlock * sizeof(float)) : 0;
    const float*& from = kLoad.next ? at.next : at.from[kLoad.row];
    const float* const p = !kTap ? from : kLoad.next ? at.next_w : at.w;
    if constexpr (kStep.act == Act::kCopy) vector_copy<kStep.column, Schedule::kBias>();
    if constexpr (kStep.act == Act::kFma) {
      constexpr int kOf = Schedule::kTaps + kStep.row * kKernel + kStep.tap;
      vector_fma<kStep.column, kStep.input, kOf>();
    }
    if constexpr (kStep.act == Act::kLow) vector_low<kLoad.place, kGroup, kBytes>(p, d);
    if constexpr (kStep.act == Act::kHigh) at.high[kStep.load] = vector_high<kGroup, kBytes>(p, d);
    if constexpr (kStep.act == Act::kJoin) vector_join<kLoad.place>(at.high[kStep.load]);
    if constexpr (kStep.act == Act::kAdvance) advance_now(from, d.by[kStep.by]);
  });
}

template <int32_t kActivation>
constexpr int kStages = kActivation == kActHardswish ? 5 : kActivation - kActNone;

// The constants of an activation in four registers from kAt on.
template <int32_t kActivation, int kAt>
inline __attribute__((always_inline)) void load_constants() {
  constexpr int kCount = kStages<kActivation>;
  if constexpr (kCount > 0) __asm__ volatile("movi v%c0.4s, #0" : : "i"(kAt));
  if constexpr (kCount > 1) __asm__ volatile("fmov v%c0.4s, #6.0" : : "i"(kAt + 1));
  if constexpr (kCount > 2) {
    const float sixth = 1.0f / 6.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &sixth, sizeof bits);
    __asm__ volatile("fmov v%c0.4s, #3.0" : : "i"(kAt + 2));
    __asm__ volatile("dup v%c0.4s, %w1" : : "i"(kAt + 3), "r"(bits));
  }
}

// One instruction of an activation, in column kColumn; `gate` is hardswish's other factor.
template <int32_t kActivation, int kStage, int kColumn, int kGate, int kConstants>
inline __attribute__((always_inline)) void activate_stage() {
  constexpr int kZeros = kConstants, kSix = kConstants + 1, kThree = kConstants + 2;
  if constexpr (kActivation != kActHardswish) {
    if constexpr (kStage == 0) vector_max<kColumn, kColumn, kZeros>();
    if constexpr (kStage == 1) vector_min<kColumn, kColumn, kSix>();
  } else {
    if constexpr (kStage == 0) vector_add<kGate, kColumn, kThree>();
    if constexpr (kStage == 1) vector_max<kGate, kGate, kZeros>();
    if constexpr (kStage == 2) vector_min<kGate, kGate, kSix>();
    if constexpr (kStage == 3) vector_mul<kColumn, kColumn, kGate>();
    if constexpr (kStage == 4) vector_mul<kColumn, kColumn, kConstants + 3>();
  }
}

// The end of a tile: what is left of its schedule, activation, sums, stores. Each round takes
// another column and goes on with those begun before, so that a result is used when it is there.
template <int32_t kActivation, bool kSummed, int kKernel, int kStride, int kColumns, int kRows>
inline __attribute__((always_inline)) void finish_columns(
    DepthwiseAddresses<kKernel, kStride, kColumns, kRows>& at, const Distances& d, float*& y,
    int64_t y_bytes, float* sum) {
  using Schedule = DepthwiseSchedule<kKernel, kStride, kColumns, kRows>;
  constexpr const Schedule& kSchedule = kDepthwiseSchedule<kKernel, kStride, kColumns, kRows>;
  constexpr int kLast = kStages<kActivation>;
  constexpr int kConstants = Schedule::kFree, kGates = kConstants + 4;
  // Hardswish gives a gate back before it takes another one.
  constexpr int kGateCount = 3;
  constexpr bool kHardswish = kActivation == kActHardswish;
  constexpr int kSum = Schedule::kSum;
  static_assert(kGates + kGateCount <= kSum);
  if constexpr (kSummed && Schedule::kLoadTaps) vector_load<kSum>(sum);
  load_constants<kActivation, kConstants>();
  unrolled<0, kColumns + kLast>([&](auto round) __attribute__((always_inline)) {
    constexpr int kRound = decltype(round)::value;
    constexpr int kFrom = kSchedule.body + 2 * kRound, kEnd = kSchedule.count;
    run_steps<(kFrom < kEnd ? kFrom : kEnd), (kFrom + 2 < kEnd ? kFrom + 2 : kEnd)>(at, d);
    unrolled<0, kLast>([&](auto order) __attribute__((always_inline)) {
      constexpr int kOrder = decltype(order)::value;
      constexpr int kStage = kHardswish ? kLast - 1 - kOrder : kOrder;
      constexpr int kColumn = kRound - kStage, kGate = kGates + (kColumn + 3) % kGateCount;
      if constexpr (kColumn >= 0 && kColumn < kColumns) {
        activate_stage<kActivation, kStage, kColumn, kGate, kConstants>();
      }
    });
    constexpr int kColumn = kRound - kLast;
    if constexpr (kColumn >= 0) {
      vector_store<kColumn>(y, y_bytes);
      if constexpr (kSummed) vector_add<kSum, kSum, kColumn>();
    }
  });
  if constexpr (kSummed && Schedule::kLoadTaps) vector_store<kSum>(sum);
}

template <bool kSummed, typename Addresses>
inline __attribute__((always_inline)) void finish_tile(Addresses& at, const Distances& d,
                                                       int32_t activation, float*& y,
                                                       int64_t y_bytes, float* sum) {
  switch (activation) {
    case kActRelu:
      return finish_columns<kActRelu, kSummed>(at, d, y, y_bytes, sum);
    case kActRelu6:
      return finish_columns<kActRelu6, kSummed>(at, d, y, y_bytes, sum);
    case kActHardswish:
      return finish_columns<kActHardswish, kSummed>(at, d, y, y_bytes, sum);
    default:
      return finish_columns<kActNone, kSummed>(at, d, y, y_bytes, sum);
  }
}

// `tiles` tiles, the first at column `first`, of so many channels, whole vectors.
struct Strip {
  int64_t first, tiles, channels;
};

// From the weights of channel c to those of the next vector of channels.
template <int kKernel>
inline __attribute__((always_inline)) int64_t weights_step(int64_t c) {
  constexpr int64_t kOtherTaps = (kKernel * kKernel - 1) * kBlock;
  return kLanes + ((c + kLanes) % kBlock == 0 ? kOtherTaps : 0);
}

// A strip of the vector of channels from c on; w: its weights of the first row. A call each: with a
// loop over channels around them gcc 12 keeps the distances on the stack.
template <int kKernel, int kStride, int kColumns, int kRows>
__attribute__((noinline)) void sliding_tiles(const DepthwiseArgs& a, const Strip& strip, int64_t c,
                                             const float* w) {
  DepthwiseAddresses<kKernel, kStride, kColumns, kRows> at;
  using Schedule = typename decltype(at)::Schedule;
  const Distances d(a.x_stride);
  const int64_t y_bytes = sizeof(float) * a.y_stride;
  const int32_t activation = a.activation;
  unrolled<0, kRows>([&](auto row) __attribute__((always_inline)) {
    constexpr int kRow = decltype(row)::value;
    const float*& from = at.from[kRow];
    from = a.x_rows[kRow] + strip.first * kStride * a.x_stride + c;
    unrolled<0, Schedule::kKept>([&](auto i) __attribute__((always_inline)) {
      vector_load<Schedule::kFixed + kRow * Schedule::kEarly + decltype(i)::value>(from);
      from += a.x_stride;
    });
    unrolled<0, kKernel>([&](auto v) __attribute__((always_inline)) {
      constexpr int kTap = kRow * kKernel + decltype(v)::value;
      vector_load<Schedule::kTaps + kTap>(w + kTap * kBlock);
    });
  });
  vector_load<Schedule::kBias>(a.bias + c);
  float* const sum = a.sum == nullptr ? nullptr : a.sum + c;
  if (sum != nullptr) vector_load<Schedule::kSum>(sum);
  float* y = a.y + strip.first * a.y_stride + c;
  for (int64_t left = strip.tiles; left > 0; --left) {
    run_steps<0, kDepthwiseSchedule<kKernel, kStride, kColumns, kRows>.body>(at, d);
    if (sum != nullptr) {
      finish_tile<true>(at, d, activation, y, y_bytes, sum);
    } else {
      finish_tile<false>(at, d, activation, y, y_bytes, sum);
    }
  }
  if (sum != nullptr) vector_store<Schedule::kSum>(sum);
}

// A kernel row of the strip's first tile, or the first row of the tile after the present one.
struct KernelRow {
  const float *x, *w;
};

template <int kKernel, int kStride, int kColumns>
__attribute__((noinline)) void row_tiles(const DepthwiseArgs& a, const Strip& strip) {
  DepthwiseAddresses<kKernel, kStride, kColumns, 1> at;
  using Schedule = typename decltype(at)::Schedule;
  constexpr const Schedule& kSchedule = kDepthwiseSchedule<kKernel, kStride, kColumns, 1>;
  const Distances d(a.x_stride);
  const int64_t y_bytes = sizeof(float) * a.y_stride, channels = strip.channels;
  const int64_t x_step = kColumns * kStride * a.x_stride;
  const int32_t activation = a.activation;
  KernelRow rows[kKernel + 2];
  for (int64_t u = 0; u < a.rows; ++u) {
    rows[u] = {a.x_rows[u] + strip.first * kStride * a.x_stride,
               a.w + (a.first_row + u) * kKernel * kBlock};
  }
  KernelRow* const last = rows + a.rows;
  last[1] = rows[0];  // is read, for a row that there isn't

  // What a row has loaded of the next one.
  at.from[0] = rows[0].x;
  at.w = rows[0].w;
  auto begun = [&](auto step) __attribute__((always_inline)) {
    unrolled<0, Schedule::kLoads>([&](auto n) __attribute__((always_inline)) {
      constexpr RowLoad kLoad = kSchedule.loads[decltype(n)::value];
      if constexpr (kLoad.next) step(n, Constant<(kLoad.input < 0 ? 0 : kLoad.input)>{});
    });
  };
  begun([&](auto n, auto input) __attribute__((always_inline)) {
    constexpr RowLoad kLoad = kSchedule.loads[decltype(n)::value];
    constexpr bool kTap = kLoad.input < 0;
    constexpr int kBytes = kTap ? kLoad.tap * static_cast<int>(kBlock * sizeof(float)) : 0;
    constexpr int kGroup = decltype(input)::value % 4;
    const float* const p = kTap ? at.w : at.from[0];
    vector_low<kLoad.place, kGroup, kBytes>(p, d);
    at.high[decltype(n)::value] = vector_high<kGroup, kBytes>(p, d);
    if constexpr (kGroup == 3) advance_now(at.from[0], d.by[4]);
  });
  begun([&](auto n, auto) __attribute__((always_inline)) {
    vector_join<kSchedule.loads[decltype(n)::value].place>(at.high[decltype(n)::value]);
  });

  // From the first tile's first channel to the present tile, and to the one after it.
  int64_t x_at = 0, w_at = 0;
  for (int64_t c = 0; c < channels; c += kLanes) {
    vector_load<Schedule::kBias>(a.bias + c);
    float* const sum = a.sum == nullptr ? nullptr : a.sum + c;
    float* y = a.y + strip.first * a.y_stride + c;
    for (int64_t left = strip.tiles; left > 0; --left) {
      int64_t next_x = x_at + x_step, next_w = w_at;
      if (left == 1) {
        // The last of all has none after it, and loads its own first row again.
        const bool more = c + kLanes < channels;
        next_x = more ? c + kLanes : x_at;
        next_w = more ? w_at + weights_step<kKernel>(c) : w_at;
      }
      *last = {rows[0].x + (next_x - x_at), rows[0].w + (next_w - w_at)};
      unrolled<0, kColumns>([&](auto t) __attribute__((always_inline)) {
        vector_copy<decltype(t)::value, Schedule::kBias>();
      });
      const KernelRow* row = rows + 1;
      KernelRow next = *row;
      do {
        at.next = next.x + x_at;
        at.next_w = next.w + w_at;
        next = *++row;
        run_steps<0, kSchedule.count>(at, d);
        at.from[0] = at.next;
        at.w = at.next_w;
      } while (row <= last);
      if (sum != nullptr) {
        finish_tile<true>(at, d, activation, y, y_bytes, sum);
      } else {
        finish_tile<false>(at, d, activation, y, y_bytes, sum);
      }
      x_at = next_x;
      w_at = next_w;
    }
  }
}
#pragma GCC pop_options

// The tiles of columns [0, columns), by strips whose rows and outputs stay in the first cache while
// its vectors of channels take turns. Returns the columns done.
template <int kKernel, int kStride, int kColumns>
int64_t tile_columns(const DepthwiseArgs& a, int64_t first) {
  constexpr int64_t kStripTiles = 56 / kColumns;
  Strip strip = {first, 0, a.channels / kLanes * kLanes};
  for (int64_t left = (a.columns - first) / kColumns; left > 0; left -= strip.tiles) {
    strip.tiles = left < kStripTiles ? left : kStripTiles;
    if constexpr (kKernel > 3) {
      row_tiles<kKernel, kStride, kColumns>(a, strip);
    } else {
      const auto tiles = a.rows == kKernel ? sliding_tiles<kKernel, kStride, kColumns, kKernel>
                                           : sliding_tiles<kKernel, kStride, kColumns, kKernel - 1>;
      const float* w = a.w + a.first_row * kKernel * kBlock;
      for (int64_t c = 0; c < strip.channels; c += kLanes) {
        tiles(a, strip, c, w);
        w += weights_step<kKernel>(c);
      }
    }
    strip.first += strip.tiles * kColumns;
  }
  // The tiles do as they like with these, of which a function leaves its caller the lower halves.
  __asm__ volatile("" : : : "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15");
  return strip.first;
}

template <int kKernel, int kStride>
void in_order_depthwise(const DepthwiseArgs& a) {
  constexpr bool kSliding = kKernel == 3;
  // Two tiles or more must slide to make up for loading their weights.
  if (a.activation > kActHardswish || a.columns < (kSliding ? 14 : 7) ||
      a.rows < (kSliding ? 2 : 1)) {
    return depthwise<kKernel, kStride>(a);
  }
  int64_t columns = 0;
  if constexpr (!kSliding) columns = tile_columns<kKernel, kStride, 14>(a, columns);
  columns = tile_columns<kKernel, kStride, 7>(a, columns);
  const int64_t channels = a.channels / kLanes * kLanes;
  if (channels < a.channels) {
    depthwise_columns<kKernel, kStride, 7, false>(a, channels, 0, columns);
  }
  depthwise_rest<kKernel, kStride>(a, 0, columns);
}

void WEEBILL_TYPED(depthwise_k3s1)(const DepthwiseArgs& a) { in_order_depthwise<3, 1>(a); }
void WEEBILL_TYPED(depthwise_k3s2)(const DepthwiseArgs& a) { in_order_depthwise<3, 2>(a); }
void WEEBILL_TYPED(depthwise_k5s1)(const DepthwiseArgs& a) { in_order_depthwise<5, 1>(a); }
void WEEBILL_TYPED(depthwise_k5s2)(const DepthwiseArgs& a) { in_order_depthwise<5, 2>(a); }
