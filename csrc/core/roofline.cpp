// Peaks. 12 independent accumulators: an FMA takes 4 cycles and two start in each on the cores that
// this is for, so 8 would do; 12 and two constants fit the 16 registers of AVX2. Every loop is a
// function with its own target attribute, so the file is compiled for the baseline.
#include "core/roofline.h"

#include <algorithm>
#include <chrono>

#include "core/cpu.h"
#include "core/dispatch.h"
#include "core/workspace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace weebill {
namespace {

constexpr int kChains = 12;

struct Loops {
  const char* isa;
  std::int64_t lanes;
  /// `iterations` times kChains multiply-adds.
  float (*multiply_add)(std::int64_t iterations, float factor, float addend);
  /// Reads `count` floats, a multiple of 8 vectors.
  float (*read)(const float* data, std::int64_t count);
};

// The instructions come in as macros: a function call could not be inlined across targets.
#define WEEBILL_LOOPS(name, attributes, Vec, kWidth, SET1, FMA, ADD, LOAD, FIRST)             \
  attributes float multiply_add_##name(std::int64_t iterations, float factor, float addend) { \
    const Vec f = SET1(factor), a = SET1(addend);                                             \
    Vec acc[kChains];                                                                         \
    for (int i = 0; i < kChains; ++i) acc[i] = SET1(static_cast<float>(i));                   \
    for (std::int64_t n = 0; n < iterations; ++n) {                                           \
      _Pragma("GCC unroll 12") for (int i = 0; i < kChains; ++i) acc[i] = FMA(acc[i], f, a);  \
    }                                                                                         \
    Vec sum = acc[0];                                                                         \
    for (int i = 1; i < kChains; ++i) sum = ADD(sum, acc[i]);                                 \
    return FIRST(sum);                                                                        \
  }                                                                                           \
  attributes float read_##name(const float* data, std::int64_t count) {                       \
    Vec acc[8];                                                                               \
    for (int i = 0; i < 8; ++i) acc[i] = SET1(0.0f);                                          \
    for (std::int64_t at = 0; at < count; at += 8 * kWidth) {                                 \
      _Pragma("GCC unroll 8") for (int i = 0; i < 8; ++i) acc[i] =                            \
          ADD(acc[i], LOAD(data + at + i * kWidth));                                          \
    }                                                                                         \
    Vec sum = acc[0];                                                                         \
    for (int i = 1; i < 8; ++i) sum = ADD(sum, acc[i]);                                       \
    return FIRST(sum);                                                                        \
  }

// The scalar tier multiplies and adds in two instructions; so does its peak.
#define WEEBILL_SET1(x) (x)
#define WEEBILL_MULTIPLY_ADD(x, y, z) ((x) * (y) + (z))
#define WEEBILL_ADD(x, y) ((x) + (y))
#define WEEBILL_LOAD(p) (*(p))
#if defined(__clang__)
#define WEEBILL_SCALAR [[gnu::noinline]]
#else
#define WEEBILL_SCALAR [[gnu::noinline, gnu::optimize("no-tree-vectorize")]]
#endif
WEEBILL_LOOPS(scalar, WEEBILL_SCALAR, float, 1, WEEBILL_SET1, WEEBILL_MULTIPLY_ADD, WEEBILL_ADD,
              WEEBILL_LOAD, WEEBILL_SET1)

#if defined(__x86_64__)
#define WEEBILL_AVX2 [[gnu::noinline, gnu::target("avx2,fma")]]
#define WEEBILL_AVX512 [[gnu::noinline, gnu::target("avx512f")]]
}  // namespace
// Like kernels, in a namespace of their instruction set: the checks of wheels go by it.
namespace avx2 {
namespace {
WEEBILL_LOOPS(avx2, WEEBILL_AVX2, __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps,
              _mm256_loadu_ps, _mm256_cvtss_f32)
}  // namespace
}  // namespace avx2
namespace avx512 {
namespace {
WEEBILL_LOOPS(avx512, WEEBILL_AVX512, __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps,
              _mm512_loadu_ps, _mm512_cvtss_f32)
}  // namespace
}  // namespace avx512
namespace {
#elif defined(__aarch64__)
#define WEEBILL_NEON [[gnu::noinline]]
#define WEEBILL_NEON_FMA(x, y, z) vfmaq_f32(z, x, y)
#define WEEBILL_NEON_FIRST(x) vgetq_lane_f32(x, 0)
WEEBILL_LOOPS(neon, WEEBILL_NEON, float32x4_t, 4, vdupq_n_f32, WEEBILL_NEON_FMA, vaddq_f32,
              vld1q_f32, WEEBILL_NEON_FIRST)
#endif

const Loops& loops_of(const std::string& isa) {
  kernels_of(isa);  // throws for one that can't run here
  static const Loops all[] = {
#if defined(__x86_64__)
      {"avx512", 16, avx512::multiply_add_avx512, avx512::read_avx512},
      {"avx2", 8, avx2::multiply_add_avx2, avx2::read_avx2},
#elif defined(__aarch64__)
      {"neon", 4, multiply_add_neon, read_neon},
#endif
      {"scalar", 1, multiply_add_scalar, read_scalar},
  };
  for (const Loops& loops : all) {
    if (isa.rfind(loops.isa, 0) == 0) return loops;  // "neon_inorder" too
  }
  return *(std::end(all) - 1);
}

/// Keeps the compiler from dropping a result.
void keep(float value) { asm volatile("" : : "g"(value) : "memory"); }

/// Nanoseconds of the fastest call of `body`, called for at least `seconds` and five times.
template <typename Body>
double fastest_ns(double seconds, Body body) {
  using Clock = std::chrono::steady_clock;
  double best = 0, total = 0;
  for (int calls = 0; total < seconds * 1e9 || calls < 5; ++calls) {
    const auto start = Clock::now();
    body();
    const double elapsed = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    best = calls == 0 ? elapsed : std::min(best, elapsed);
    total += elapsed;
  }
  return best;
}

}  // namespace

double peak_gflops(const std::string& isa, double seconds) {
  const Loops& loops = loops_of(isa);
  constexpr std::int64_t kIterations = 20000;
  // 1 - 2^-10 and 2^-10: the accumulators stay near 1, far from denormals.
  volatile float factor = 1 - 0x1p-10f, addend = 0x1p-10f;
  const double ns =
      fastest_ns(seconds, [&] { keep(loops.multiply_add(kIterations, factor, addend)); });
  return 2.0 * static_cast<double>(loops.lanes * kChains * kIterations) / ns;
}

std::vector<Bandwidth> read_bandwidth(const std::string& isa, double seconds) {
  const CpuInfo& cpu = cpu_info();
  const Loops& loops = loops_of(isa);
  constexpr std::int64_t kMost = 256 << 20;
  // Half of a cache, so that what else lives there does not push the data out.
  std::vector<Bandwidth> levels = {{"L1", cpu.l1d_bytes / 2, 0}, {"L2", cpu.l2_bytes / 2, 0}};
  if (cpu.l3_bytes > 0) {
    levels.push_back({"L3", std::min(std::max(cpu.l3_bytes / 2, 2 * cpu.l2_bytes), kMost), 0});
  }
  const std::int64_t last = std::max(cpu.l3_bytes, cpu.l2_bytes);
  levels.push_back({"DRAM", std::min(std::max<std::int64_t>(4 * last, 64 << 20), kMost), 0});
  for (Bandwidth& level : levels) {
    level.bytes = level.bytes / 4096 * 4096;
    const std::int64_t count = level.bytes / static_cast<std::int64_t>(sizeof(float));
    // A read of a small cache takes less than the clock can tell: it is repeated.
    const std::int64_t times = std::max<std::int64_t>(1, (1 << 20) / level.bytes);
    // From the start of a line on, for a vector that crosses one is read as two; in a workspace of
    // its own, which gives the memory back.
    Workspace workspace;
    Workspace::Scope scope(workspace);
    float* const data = scope.take(count);
    std::fill_n(data, count, 1.0f);
    const double ns = fastest_ns(seconds, [&] {
      for (std::int64_t i = 0; i < times; ++i) keep(loops.read(data, count));
    });
    level.gbps = static_cast<double>(times * level.bytes) / ns;
  }
  return levels;
}

}  // namespace weebill
