// The harness itself: an overrun must be caught and named, a written margin seen, a seed replayed.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <set>

#include "guarded.h"
#include "harness.h"
#include "reference.h"

namespace weebill::testing {
namespace {

struct Outcome {
  int exit_code;
  std::string errors;
};

/// Runs an action in a child process and returns how that ended.
Outcome in_child(const std::function<void()>& action) {
  int ends[2];
  if (pipe(ends) != 0) return {-1, "pipe failed"};
  std::fflush(stdout);
  std::fflush(stderr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    action();
    _exit(0);
  }
  close(ends[1]);
  std::string errors;
  char piece[256];
  for (ssize_t got; (got = read(ends[0], piece, sizeof piece)) > 0;) {
    errors.append(piece, static_cast<std::size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, errors};
}

void expect_fault(const char* where, const std::function<void()>& action) {
  const Outcome outcome = in_child(action);
  if (outcome.exit_code != 3 || outcome.errors.find(where) == std::string::npos) {
    WEEBILL_FAIL("expected a fault '%s', got exit code %d: %s", where, outcome.exit_code,
                 outcome.errors.c_str());
  }
}

WEEBILL_TEST(harness_catches_every_overrun) {
  for (std::size_t count : {1, 3, 16, 1000, 1024, 1025, 5000}) {
    set_case("count %zu", count);
    const Guarded<float> at_end("victim", count, Flush::kEnd);
    const Guarded<float> at_start("victim", count, Flush::kStart);
    volatile char* const end = reinterpret_cast<char*>(at_end.data() + count);
    volatile char* const start = reinterpret_cast<char*>(at_start.data());
    expect_fault("0 bytes past the end of victim", [=] { end[0] = 1; });
    expect_fault("0 bytes past the end of victim", [=] { (void)end[0]; });
    expect_fault("1 bytes before the start of victim", [=] { start[-1] = 1; });
    expect_fault("1 bytes before the start of victim", [=] { (void)start[-1]; });
    WEEBILL_EXPECT(in_child([=] { end[-1] = 1; }).exit_code == 0);
    WEEBILL_EXPECT(in_child([=] { start[0] = 1; }).exit_code == 0);
  }
}

WEEBILL_TEST(harness_sees_written_margins) {
  for (std::size_t count : {0, 1, 7, 1023, 1024, 1500}) {
    set_case("count %zu", count);
    for (Flush flush : {Flush::kEnd, Flush::kStart}) {
      const Guarded<float> buffer("margin", count, flush);
      WEEBILL_EXPECT(buffer.intact());
      for (std::size_t i = 0; i < count; ++i) buffer[i] = 1;
      WEEBILL_EXPECT(buffer.intact());
      char* const bytes = reinterpret_cast<char*>(buffer.data());
      if (flush == Flush::kEnd && count % 1024 != 0) {
        bytes[-1] = static_cast<char>(bytes[-1] ^ 1);
      } else if (flush == Flush::kStart && count % 1024 != 0) {
        bytes[count * 4] = static_cast<char>(bytes[count * 4] ^ 1);
      } else {
        continue;
      }
      WEEBILL_EXPECT(!buffer.intact());
    }
  }
}

WEEBILL_TEST(harness_aligns_when_asked) {
  for (std::size_t bytes : {64, 128, 4096, 100, 4097}) {
    const Guarded<std::byte> buffer("aligned", bytes, Flush::kEnd, 64);
    WEEBILL_EXPECT(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
    WEEBILL_EXPECT(buffer.intact());
  }
}

WEEBILL_TEST(harness_replays_a_seed) {
  Rng first(7), second(7), other(8);
  std::set<float> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = first.next();
    WEEBILL_EXPECT(value == second.next());
    WEEBILL_EXPECT(value != other.next());
    const float real = first.real(-2, 3);
    WEEBILL_EXPECT(second.real(-2, 3) == real);
    WEEBILL_EXPECT(real >= -2 && real < 3);
    seen.insert(real);
    const std::int64_t integer = first.integer(-3, 4);
    WEEBILL_EXPECT(second.integer(-3, 4) == integer);
    WEEBILL_EXPECT(integer >= -3 && integer <= 4);
  }
  WEEBILL_EXPECT(seen.size() > 990);
}

/// The oracle's own anchors: values that can be checked by hand.
WEEBILL_TEST(reference_by_hand) {
  using namespace reference;
  WEEBILL_EXPECT(activate(kActHardswish, 1) == 1.0 * 4 / 6);
  WEEBILL_EXPECT(activate(kActHardsigmoidPaddle, 1) == 0.7);
  WEEBILL_EXPECT(activate(kActRelu6, 7) == 6);
  WEEBILL_EXPECT(std::abs(activate(kActSilu, 1) - 0.7310585786300049) < 1e-15);
  WEEBILL_EXPECT(std::abs(activate(kActSigmoid, -2) - 0.11920292202211755) < 1e-15);

  // 1 2 3    with a kernel of ones, padding 1 and stride 2: the corners' 2 x 2 windows.
  // 4 5 6
  // 7 8 9
  Conv2dSpec spec;
  const std::vector<float> ones(9, 1.0f);
  spec.weight = {ones.data(), {1, 1, 3, 3}};
  spec.window = {3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 0};
  Tensor x({1, 1, 3, 3});
  for (std::size_t i = 0; i < 9; ++i) x.data[i].value = static_cast<double>(i + 1);
  const Tensor y = conv2d(spec, x);
  WEEBILL_EXPECT(y.shape.h == 2 && y.shape.w == 2);
  const double expected[] = {12, 16, 24, 28};
  for (std::size_t i = 0; i < 4; ++i) WEEBILL_EXPECT(y.data[i].value == expected[i]);
  // 4 taps and a bias: at least one rounding per operation is allowed, not much more.
  WEEBILL_EXPECT(y.data[0].error > 12 * kUnit && y.data[0].error < 12 * 20 * kUnit);
}

}  // namespace
}  // namespace weebill::testing
