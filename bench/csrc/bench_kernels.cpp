// Micro-benchmark of the kernels and of whole blocks, on one thread: time, GFLOP/s, and the share
// of what this core's multiply-adds could do at most. Pin it: taskset -c 1 bench_kernels.
//
//   --isa NAME            instead of the best of this machine
//   --filter TEXT         rows whose "group/name" contains it
//   --min-time SECONDS    per row (0.1)
//   --shapes FOLDER       block shapes (python/weebill/bench/suites)
//   --json                one JSON object instead of a table
//   --skip TEXT           leave out rows whose "group/name" contains it; may be given again
//   --count               run every row twice and measure nothing; under callgrind with
//                         --collect-atstart=no there is a dump of each row's second run; blocks
//                         are cut as for caches of 32 and 512 KB, on every machine
//   --layers              separable blocks alone, one pass per layer instead of fused
//   --compiler            print what this program was built with
//   --benchmark-once N    run every row exactly N times and measure nothing: for callgrind, where
//                         the difference between N = 1 and N = 2 is one iteration's instructions
//
// Times are ns per iteration, min and median over samples. GFLOP/s (a multiply-add is 2) and GB/s
// (1e9 bytes, everything read and written once) are of the min. Caches are warm.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>

#include "core/cpu.h"
#include "core/dispatch.h"
#include "core/plan.h"
#include "core/roofline.h"
#include "timing.h"

namespace weebill::bench {
namespace {

[[noreturn]] void usage(const std::string& problem) {
  std::fprintf(stderr,
               "bench_kernels: %s\nusage: bench_kernels [--isa NAME] [--filter TEXT] [--min-time "
               "SECONDS] [--shapes FOLDER] [--json] [--skip TEXT] [--count] [--layers] "
               "[--compiler] "
               "[--benchmark-once N]\n",
               problem.c_str());
  std::exit(2);
}

double parse_positive(const std::string& flag, const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0) || !std::isfinite(value)) {
    usage(flag + " must be a positive number, got " + text);
  }
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    auto value = [&]() -> const char* {
      if (i + 1 >= argc) usage(flag + " needs a value");
      return argv[++i];
    };
    if (flag == "--isa") {
      options.isa = value();
    } else if (flag == "--filter") {
      options.filter = value();
    } else if (flag == "--min-time") {
      options.min_time = parse_positive(flag, value());
    } else if (flag == "--shapes") {
      options.shapes = value();
    } else if (flag == "--json") {
      options.json = true;
    } else if (flag == "--skip") {
      options.skip.push_back(value());
    } else if (flag == "--count") {
      options.count = true;
    } else if (flag == "--layers") {
      options.layers = true;
    } else if (flag == "--compiler") {
      std::printf("%s\n", WEEBILL_COMPILER);
      std::exit(0);
    } else if (flag == "--benchmark-once") {
      options.once = static_cast<std::int64_t>(parse_positive(flag, value()));
    } else {
      usage("unknown argument " + flag);
    }
  }
  return options;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + "\"";
}

/// Time of one pass over a group's blocks, each as often as the network has it.
struct Total {
  double min_ns = 0, median_ns = 0, flops = 0;
};

std::map<std::string, Total> totals(const Bench& bench) {
  std::map<std::string, Total> all;
  for (const Row& row : bench.rows()) {
    if (row.what.group == "kernel") continue;
    Total& total = all[row.what.group];
    const auto count = static_cast<double>(row.what.count);
    total.min_ns += count * row.min_ns;
    total.median_ns += count * row.median_ns;
    total.flops += count * row.what.flops;
  }
  return all;
}

void print_head(const Bench& bench, const std::vector<Bandwidth>& bandwidth) {
  const CpuInfo& cpu = cpu_info();
  std::printf("cpu %s, isa %s, L1d %lld KB, L2 %lld KB, L3 %lld KB\n", cpu.model.c_str(),
              isa().c_str(), static_cast<long long>(cpu.l1d_bytes >> 10),
              static_cast<long long>(cpu.l2_bytes >> 10),
              static_cast<long long>(cpu.l3_bytes >> 10));
  std::printf("peak %.1f GFLOP/s; reads, GB/s:", bench.peak());
  for (const Bandwidth& level : bandwidth) {
    std::printf(" %s %.1f (%lld KB)", level.level.c_str(), level.gbps,
                static_cast<long long>(level.bytes >> 10));
  }
  std::printf("\n\n%-58s %12s %12s %9s %8s %7s\n", "row", "min ns", "median ns", "GFLOP/s", "GB/s",
              "of peak");
}

void print_totals(const Bench& bench) {
  for (const auto& [group, total] : totals(bench)) {
    std::printf("%-58s %12.0f %12.0f %9.1f %8s %6.1f%%\n", (group + " (sum, by count)").c_str(),
                total.min_ns, total.median_ns, total.flops / total.min_ns, "",
                100 * total.flops / total.min_ns / bench.peak());
  }
}

void print_json(const Bench& bench, const std::vector<Bandwidth>& bandwidth) {
  const CpuInfo& cpu = cpu_info();
  std::printf(
      "{\"cpu\": %s, \"isa\": %s, \"l1d_bytes\": %lld, \"l2_bytes\": %lld, \"l3_bytes\": "
      "%lld, \"peak_gflops\": %.2f,\n \"read_gbps\": {",
      quoted(cpu.model).c_str(), quoted(isa()).c_str(), static_cast<long long>(cpu.l1d_bytes),
      static_cast<long long>(cpu.l2_bytes), static_cast<long long>(cpu.l3_bytes), bench.peak());
  const char* separator = "";
  for (const Bandwidth& level : bandwidth) {
    std::printf("%s%s: %.2f", separator, quoted(level.level).c_str(), level.gbps);
    separator = ", ";
  }
  std::printf("},\n \"rows\": [");
  separator = "\n";
  for (const Row& row : bench.rows()) {
    std::printf(
        "%s  {\"group\": %s, \"name\": %s, \"count\": %lld, \"iterations\": %lld, "
        "\"min_ns\": %.1f, \"median_ns\": %.1f, \"flops\": %.0f, \"bytes\": %.0f, "
        "\"share_of_peak\": %.4f}",
        separator, quoted(row.what.group).c_str(), quoted(row.what.name).c_str(),
        static_cast<long long>(row.what.count), static_cast<long long>(row.iterations), row.min_ns,
        row.median_ns, row.what.flops, row.what.bytes, bench.share(row));
    separator = ",\n";
  }
  std::printf("\n]}\n");
}

int run_all(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (!options.isa.empty()) set_isa(options.isa);
  Bench bench(options);
  std::vector<Bandwidth> bandwidth;
  const bool measured = options.once == 0 && !options.count;
  if (measured) {
    bench.set_peak(peak_gflops(isa(), options.min_time));
    bandwidth = read_bandwidth(isa(), options.min_time);
    if (!options.json) print_head(bench, bandwidth);
  } else {
    assume_caches({32 << 10, 512 << 10});  // how blocks are cut decides what is counted
  }
  if (!options.layers) bench_kernels(bench);
  bench_blocks(bench);
  if (bench.rows().empty()) usage("no row matches " + options.filter);
  if (!measured) {
    for (const Row& row : bench.rows()) {
      std::printf("%s/%s %lld\n", row.what.group.c_str(), row.what.name.c_str(),
                  static_cast<long long>(row.iterations));
    }
  } else if (options.json) {
    print_json(bench, bandwidth);
  } else if (options.filter.empty()) {
    print_totals(bench);
  }
  return 0;
}

}  // namespace

void Bench::print(const Row& row) const {
  std::printf("%-58s %12.0f %12.0f", (row.what.group + "/" + row.what.name).c_str(), row.min_ns,
              row.median_ns);
  if (row.what.flops > 0) {
    std::printf(" %9.1f", row.what.flops / row.min_ns);
  } else {
    std::printf(" %9s", "");
  }
  std::printf(" %8.1f %6.1f%%\n", row.what.bytes / row.min_ns, 100 * share(row));
  std::fflush(stdout);
}

// Each a block of code of its own, told apart by its address; the name keeps them two functions.
__attribute__((noinline)) void count_begin() { asm volatile("" : : "r"("begin") : "memory"); }
__attribute__((noinline)) void count_end() { asm volatile("" : : "r"("end") : "memory"); }

}  // namespace weebill::bench

int main(int argc, char** argv) {
  try {
    return weebill::bench::run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_kernels: %s\n", error.what());
    return 2;
  }
}
