// The order of a depthwise tile's instructions on a core that issues in order, and their registers,
// computed when the kernel is compiled: in_order_depthwise.inl emits them one by one.

// Vector instructions and halves of loads. Each column's taps are accumulated one round apart.
enum class Act : unsigned char { kCopy, kFma, kLow, kHigh, kJoin, kAdvance };

// kCopy: column. kFma: row, column, tap, input's register. Loads: number. kAdvance: number, inputs.
struct Step {
  Act act = Act::kCopy;
  int row = 0, column = 0, tap = 0, input = 0;
  int load = 0, by = 0;
};

// Of an input of a kernel row, or (input < 0) of a tap; `next`: of the row that comes after.
struct RowLoad {
  int row = 0, input = -1, tap = -1;
  int at = 0;  // behind this vector instruction
  bool next = false;
  int place = 0;  // register
};

// Of all kernel rows of a tile (kRows > 1), whose taps and first inputs are there; or of one row
// that loads its taps too, and some taps and inputs of the next one.
template <int kKernel, int kStride, int kColumns, int kRows>
struct DepthwiseSchedule {
  static constexpr bool kLoadTaps = kRows == 1;
  static constexpr int kInputs = (kColumns - 1) * kStride + kKernel;
  static constexpr int kKept = kLoadTaps ? 0 : kKernel - kStride;  // shared with the tile before
  static constexpr int kEarly = kLoadTaps ? 4 : kKept;  // inputs a row finds in their registers
  static constexpr int kNew = kInputs - kKept;
  static constexpr int kLoads = kRows * kNew + (kLoadTaps ? kKernel : 0);
  static constexpr int kVectors = kRows * kColumns * kKernel + (kLoadTaps ? 0 : kColumns);
  static constexpr int kTail = kLoadTaps ? 0 : kKernel * (kKernel - 1) / 2;
  // Vector instructions from the first half of a load to its use: two halves of four cycles each,
  // with other loads in between.
  static constexpr int kAhead = kLoadTaps ? 11 : 10;
  static constexpr int kLatency = 5;

  // Registers: accumulators, taps, early inputs of each row, and those for anything else.
  static constexpr int kTaps = kColumns;
  static constexpr int kFixed = kTaps + kRows * kKernel;
  static constexpr int kFree = kFixed + kRows * kEarly;
  static constexpr int kBias = 31, kSum = 30;  // sums only at a tile's end where taps are loaded
  static constexpr int kFreeEnd = kLoadTaps ? kBias : kSum;

  Step vectors[kVectors] = {};
  RowLoad loads[kLoads] = {};
  Step steps[kVectors + 4 * kLoads + kRows] = {};
  int count = 0;
  int body = 0;  // steps before the last kTail vector instructions
  bool fits = true;

  constexpr DepthwiseSchedule() {
    order_vectors();
    order_loads();
    merge();
    assign();
  }

 private:
  static constexpr int max(int a, int b) { return a < b ? b : a; }
  template <typename T>
  static constexpr void swap(T& a, T& b) {
    const T moved = a;
    a = b;
    b = moved;
  }
  static constexpr int input_of(const Step& fma) { return fma.column * kStride + fma.tap; }

  constexpr void order_vectors() {
    int n = 0;
    if (!kLoadTaps) {
      for (int t = 0; t < kColumns; ++t) vectors[n++].column = t;
    }
    // Each round begins a column and goes on with those begun before, also of the row before.
    for (int round = 0; round < kRows * kColumns + kKernel - 1; ++round) {
      for (int v = 0; v < kKernel; ++v) {
        const int at = round - v;
        if (at < 0 || at >= kRows * kColumns) continue;
        vectors[n].act = Act::kFma;
        vectors[n].row = at / kColumns;
        vectors[n].column = at % kColumns;
        vectors[n++].tap = v;
      }
    }
    // A row's first FMAs by their inputs, which are on their way.
    constexpr int kRamp = kLoadTaps ? kKernel * (kKernel - 1) / 2 : 0;
    for (int i = 1; i < kRamp; ++i) {
      for (int j = i; j > 0 && input_of(vectors[j - 1]) > input_of(vectors[j]); --j) {
        swap(vectors[j - 1], vectors[j]);
      }
    }
  }

  constexpr int first_use(const RowLoad& load) const {
    for (int n = 0; n < kVectors; ++n) {
      if (vectors[n].act != Act::kFma || vectors[n].row != load.row) continue;
      if (load.input < 0 ? vectors[n].tap == load.tap : input_of(vectors[n]) == load.input)
        return n;
    }
    return kVectors;
  }

  constexpr void order_loads() {
    int n = 0;
    for (int u = 0; u < kRows; ++u) {
      for (int i = kKept; i < kInputs; ++i, ++n) {
        loads[n].row = u;
        loads[n].input = i;
        loads[n].at = first_use(loads[n]) - kAhead;
      }
    }
    // Addresses go from input to input.
    for (int i = n - 1; i > 0; --i) {
      if (loads[i - 1].at > loads[i].at) loads[i - 1].at = loads[i].at;
    }
    for (int v = 0; kLoadTaps && v < kKernel; ++v, ++n) {
      loads[n].tap = v;
      loads[n].at = first_use(loads[n]) - kAhead;
    }
    for (int i = 0; i < kLoads; ++i) {
      // The last two taps are in use until a row's end.
      const bool early = loads[i].input < 0 ? loads[i].tap + 2 < kKernel : loads[i].input < kEarly;
      if (kLoadTaps && early && loads[i].at < 0) {
        loads[i].at += kVectors;
        loads[i].next = true;
        // A tap makes room for the one of the next row.
        for (int j = 0; j < kVectors && loads[i].input < 0; ++j) {
          if (vectors[j].tap == loads[i].tap) loads[i].at = max(loads[i].at, j);
        }
      }
    }
    for (int i = 1; i < kLoads; ++i) {  // by time
      for (int j = i; j > 0 && loads[j - 1].at > loads[j].at; --j) {
        swap(loads[j - 1], loads[j]);
      }
    }
    // One behind each vector instruction, or every second one where there are enough of these.
    for (int i = kLoads - 1; i > 0; --i) {
      const bool sparse = loads[i].at > 2 * kAhead && loads[i].at < kVectors - 2 * kAhead;
      const int latest = loads[i].at - (sparse && kKernel > 2 * kStride ? 2 : 1);
      if (loads[i - 1].at > latest) loads[i - 1].at = latest;
    }
  }

  constexpr Step& add(Act act, int load) {
    steps[count].act = act;
    steps[count].load = load;
    return steps[count++];
  }

  constexpr void advance(int n) {
    const int at = loads[n].input - kKept;
    if (loads[n].input < 0) return;
    if (at % 4 == 3) {
      add(Act::kAdvance, n).by = 4;
    } else if (!kLoadTaps && at + 1 == kNew) {
      add(Act::kAdvance, n).by = kNew % 4;
    }
  }

  // How many loads, of all passes, must have been done before an instruction.
  constexpr int loaded_before(const Step& vector, int pass) const {
    int needed = 0;
    for (int n = 0; n < kLoads && vector.act == Act::kFma; ++n) {
      const RowLoad& load = loads[n];
      const bool uses = load.input < 0 ? load.tap == vector.tap
                                       : load.row == vector.row && load.input == input_of(vector);
      if (uses) needed = max(needed, (kLoadTaps ? pass - load.next : 0) * kLoads + n + 1);
    }
    return needed;
  }

  constexpr void merge() {
    int cycle = 0, joined = 0, begun = 0;
    int low_cycle[2 * kLoads] = {};
    // A row that loads for the next one joins what the one before has begun: the second pass
    // counts.
    for (int pass = kLoadTaps ? 0 : 1; pass < 2; ++pass) {
      count = 0;
      int next = 0, high = -1, moved = -1;
      for (int n = 0; n < kVectors; ++n) {
        if (n == kVectors - kTail) body = count;
        for (const int needed = loaded_before(vectors[n], pass); joined < needed;) {
          if (joined == begun) fits = false;
          add(Act::kJoin, joined++ % kLoads);
        }
        steps[count++] = vectors[n];
        ++cycle;
        if (moved >= 0) advance(moved);
        moved = high;
        if (high >= 0) add(Act::kHigh, high);
        high = -1;
        // The address moves beside the next vector instruction, if no load wants it before.
        if (moved >= 0 && next < kLoads && loads[next].at <= n) {
          advance(moved);
          moved = -1;
        }
        const bool ripe = joined < begun && cycle - low_cycle[joined] >= kLatency;
        if (next < kLoads && loads[next].at <= n) {
          add(Act::kLow, next);
          low_cycle[begun++] = cycle++;
          high = next++;
          if (ripe) add(Act::kJoin, joined++ % kLoads);
        } else if (ripe && (next == kLoads || loads[next].at > n + 2)) {
          add(Act::kJoin, joined++ % kLoads);
        }
      }
      if (moved >= 0) advance(moved);
      if (high >= 0) {
        add(Act::kHigh, high);
        advance(high);
      }
      if (kTail == 0) body = count;
    }
  }

  // Where the last FMA that takes an input of the present row stands.
  constexpr int last_use(int row, int input) const {
    int last = 0;
    for (int n = 0; n < count; ++n) {
      const Step& step = steps[n];
      if (step.act == Act::kFma && step.row == row && input_of(step) == input) last = n;
    }
    return last;
  }

  constexpr int last_use_of_tap(int tap) const {
    int last = 0;
    for (int n = 0; n < count; ++n) {
      if (steps[n].act == Act::kFma && steps[n].tap == tap) last = n;
    }
    return last;
  }

  constexpr int position(Act act, int load) const {
    for (int n = 0; n < count; ++n) {
      if (steps[n].act == act && steps[n].load == load) return n;
    }
    return count;
  }

  constexpr void assign() {
    int free_from[32] = {}, free_to[32] = {};
    for (int r = kFixed; r < kFreeEnd; ++r) free_to[r] = r < kFree ? -1 : count + 1;
    int place[kRows][kInputs] = {};
    for (int u = 0; u < kRows; ++u) {
      for (int i = 0; i < kEarly; ++i) {
        const int r = kFixed + u * kEarly + i;
        place[u][i] = r;
        free_from[r] = last_use(u, i) + 1;
      }
    }
    // Early inputs of the next row, or of the next tile's row.
    for (int n = 0; n < kLoads; ++n) {
      RowLoad& load = loads[n];
      if (load.input < 0) {
        load.place = kTaps + load.tap;
        if (load.next && position(Act::kLow, n) < last_use_of_tap(load.tap)) fits = false;
        continue;
      }
      const bool early = kLoadTaps ? load.next : load.input >= kColumns * kStride;
      if (!early) continue;
      const int i = kLoadTaps ? load.input : load.input - kColumns * kStride;
      const int r = kFixed + load.row * kEarly + i;
      const int low = position(Act::kLow, n);
      if (free_from[r] > low) fits = false;
      free_to[r] = low;
      load.place = r;
      place[load.row][load.input] = r;
    }
    for (int n = 0; n < kLoads; ++n) {
      RowLoad& load = loads[n];
      if (load.place != 0) continue;
      const int low = position(Act::kLow, n), last = last_use(load.row, load.input);
      for (int r = kFreeEnd - 1; r >= kFixed && load.place == 0; --r) {
        if (free_from[r] > low || free_to[r] < last) continue;
        load.place = r;
        place[load.row][load.input] = r;
        free_from[r] = last + 1;
      }
      if (load.place == 0) fits = false;
    }
    for (int n = 0; n < count; ++n) {
      if (steps[n].act == Act::kFma) steps[n].input = place[steps[n].row][input_of(steps[n])];
    }
  }
};

template <int kKernel, int kStride, int kColumns, int kRows>
constexpr DepthwiseSchedule<kKernel, kStride, kColumns, kRows> kDepthwiseSchedule{};
