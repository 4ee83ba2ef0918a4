// The harness's run time: command line, test loop, crash handler.
#include "harness.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <random>

#include "core/dispatch.h"
#include "core/parallel.h"
#include "guarded.h"

namespace weebill::testing {
namespace {

constexpr int kMaxFailuresPerTest = 10;

struct Test {
  const char* name;
  TestBody body;
};

/// Thrown when a test has failed often enough.
struct TestAbandoned {};

// Read by the signal handler, hence plain.
char current_case[512] = "(none)";
const char* current_test = "(none)";
char replay[128] = "";

Options parsed;
int failures = 0;
double worst_ratio = 0;

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

Rng& generator() {
  static Rng instance(0);
  return instance;
}

/// snprintf is not on the list of functions that are safe in a handler, but it only formats into
/// our own memory here, and the process ends right after.
void say(const char* text, ...) {
  char line[1024];
  va_list arguments;
  va_start(arguments, text);
  const int length = std::vsnprintf(line, sizeof line, text, arguments);
  va_end(arguments);
  const auto count = std::min(static_cast<std::size_t>(std::max(length, 0)), sizeof line - 1);
  if (write(STDERR_FILENO, line, count) < 0) _exit(3);
}

/// Says where the faulting address lies in terms of the guarded buffers.
void say_nearest_buffer(const std::byte* address) {
  const auto page = static_cast<std::ptrdiff_t>(page_bytes());
  for (const LiveBuffer& buffer : live_buffers()) {
    if (buffer.name == nullptr) continue;
    // The fault may lie a whole vector's width away, but never more than a guard page.
    if (address >= buffer.end && address - buffer.end < page) {
      say("  %td bytes past the end of %s (%td bytes)\n", address - buffer.end, buffer.name,
          buffer.end - buffer.begin);
    } else if (address < buffer.begin && buffer.begin - address <= page) {
      say("  %td bytes before the start of %s (%td bytes)\n", buffer.begin - address, buffer.name,
          buffer.end - buffer.begin);
    }
  }
}

void on_crash(int signal_number, siginfo_t* info, void*) {
  say("\nCRASH: signal %d (%s) in %s\n  case: %s\n  address: %p\n", signal_number,
      strsignal(signal_number), current_test, current_case, info->si_addr);
  say_nearest_buffer(static_cast<const std::byte*>(info->si_addr));
  say("  replay: %s\n", replay);
  _exit(3);
}

void install_crash_handler() {
  static char stack[64 << 10];
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigaction(number, &action, nullptr);
}

std::uint64_t hash_name(const char* name) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (; *name != '\0'; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 0x100000001b3;
  return hash;
}

[[noreturn]] void usage(const char* program, const char* problem) {
  std::fprintf(stderr, "%s\nusage: %s [--list] [--filter TEXT] [--isa NAME] [--seed N] [--quick]\n",
               problem, program);
  std::exit(2);
}

Options parse(int argc, char** argv) {
  Options result;
  result.seed = std::random_device{}();
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    auto value = [&]() -> const char* {
      if (i + 1 >= argc) usage(argv[0], (argument + " needs a value").c_str());
      return argv[++i];
    };
    if (argument == "--list") {
      result.list = true;
    } else if (argument == "--quick") {
      result.quick = true;
    } else if (argument == "--filter") {
      result.filter = value();
    } else if (argument == "--isa") {
      result.isa = value();
    } else if (argument == "--seed") {
      result.seed = std::strtoull(value(), nullptr, 0);
    } else {
      usage(argv[0], ("unknown argument " + argument).c_str());
    }
  }
  return result;
}

/// True if the test passed.
bool run_test(const Test& test) {
  current_test = test.name;
  set_case("(none)");
  generator() = Rng(parsed.seed ^ hash_name(test.name));
  const int failures_before = failures;
  worst_ratio = 0;
  const auto start = std::chrono::steady_clock::now();
  try {
    test.body();
  } catch (const TestAbandoned&) {
    std::fprintf(stderr, "  too many failures, %s left\n", test.name);
  } catch (const std::exception& error) {
    try {
      WEEBILL_FAIL("unexpected exception: %s", error.what());
    } catch (const TestAbandoned&) {
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const bool passed = failures == failures_before;
  std::printf("%s %-40s %6.2f s", passed ? "ok  " : "FAIL", test.name, seconds.count());
  if (worst_ratio > 0) std::printf("  worst error / bound %.3f", worst_ratio);
  std::printf("\n");
  std::fflush(stdout);
  return passed;
}

int run_all(const char* program) {
  int selected = 0;
  int failed = 0;
  for (const Test& test : tests()) {
    if (std::strstr(test.name, parsed.filter.c_str()) == nullptr) continue;
    ++selected;
    if (parsed.list) {
      std::printf("%s\n", test.name);
      continue;
    }
    std::snprintf(replay, sizeof replay, "--seed %llu --filter %s%s",
                  static_cast<unsigned long long>(parsed.seed), test.name,
                  parsed.quick ? " --quick" : "");
    if (!run_test(test)) ++failed;
  }
  if (selected == 0) usage(program, ("no test matches " + parsed.filter).c_str());
  if (!parsed.list) std::printf("%d tests, %d failed\n", selected, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace

const Options& options() { return parsed; }
Rng& rng() { return generator(); }

Rng::Rng(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {
    seed += 0x9e3779b97f4a7c15;
    std::uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

std::uint64_t Rng::next() {
  auto rotate = [](std::uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); };
  const std::uint64_t result = rotate(state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = rotate(state_[3], 45);
  return result;
}

std::int64_t Rng::integer(std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
}

float Rng::real(float low, float high) {
  const float unit = static_cast<float>(next() >> 40) * 0x1p-24f;
  return low + (high - low) * unit;
}

std::vector<float> Rng::reals(std::int64_t count, float low, float high) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = real(low, high);
  return values;
}

std::vector<float> Rng::integers(std::int64_t count, std::int64_t low, std::int64_t high) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(integer(low, high));
  return values;
}

std::vector<std::string> tested_isas() {
  std::vector<std::string> tested;
  for (const std::string& isa : isas()) {
    if (isa.rfind(parsed.isa, 0) == 0) tested.push_back(isa);
  }
  if (tested.empty()) tested.push_back(parsed.isa);  // an exception names it
  return tested;
}

void set_case(const char* text, ...) {
  va_list arguments;
  va_start(arguments, text);
  std::vsnprintf(current_case, sizeof current_case, text, arguments);
  va_end(arguments);
}

std::string format(const char* text, ...) {
  char line[1024];
  va_list arguments;
  va_start(arguments, text);
  std::vsnprintf(line, sizeof line, text, arguments);
  va_end(arguments);
  return line;
}

void fail(const char* file, int line, const std::string& message) {
  ++failures;
  std::fprintf(stderr, "%s:%d: %s: %s\n  case: %s\n  replay: %s\n", file, line, current_test,
               message.c_str(), current_case, replay);
  static int in_this_test = 0;
  static const char* this_test = nullptr;
  if (this_test != current_test) in_this_test = 0;
  this_test = current_test;
  if (++in_this_test >= kMaxFailuresPerTest) throw TestAbandoned{};
}

void note_error_ratio(double ratio) {
  if (ratio > worst_ratio) worst_ratio = ratio;
}

void expect_error_form(const char* file, int line, const char* op, const std::string& text) {
  const std::size_t colon = text.find(": ");
  const bool named = op == nullptr ? colon != std::string::npos && colon > 0
                                   : text.rfind(std::string(op) + ": ", 0) == 0;
  const std::size_t rule = text.find(" must ");
  const std::size_t value = text.find(", got ");
  // ", got <value>" may be missing where there is no value to show, but not come first.
  if (!named || rule == std::string::npos || (value != std::string::npos && value < rule)) {
    fail(file, line,
         "error text is not '<op>: <argument> must <rule>, got <value>' with op " +
             std::string(op == nullptr ? "any" : op) + ": " + text);
  }
}

Registration::Registration(const char* name, TestBody body) { tests().push_back({name, body}); }

int run_main(int argc, char** argv) {
  parsed = parse(argc, argv);
  install_crash_handler();
  // One thread unless a test asks for more (ParallelMode, ThreadsScope).
  set_parallel_hook({[](int, LentTeam::Leader leader, void* context) { leader(context, nullptr); },
                     [] { return 1; }});
  if (!parsed.list) {
    std::printf("seed %llu\n", static_cast<unsigned long long>(parsed.seed));
    std::fflush(stdout);
  }
  return run_all(argv[0]);
}

}  // namespace weebill::testing

int main(int argc, char** argv) { return weebill::testing::run_main(argc, argv); }
