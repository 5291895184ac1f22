// SPDX-License-Identifier: Apache-2.0

// Measures what starting costs: a rank joins its world, sums once over all ranks, once more, then once over
// each of some groups of all ranks. Each rank prints a line of JSON with the moments at which it had done so,
// in seconds of the clock that all processes of a machine share, and the peak memory of its process and its
// parent's in KB.
//
// As processes under a launcher, or as threads of this process.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "syncbn/error.h"
#include "syncbn/group.h"

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

long own_peak_kb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

// Under syncbn-run the parent is the launcher. 0 where it can't be read.
long parent_peak_kb() {
  std::ifstream status("/proc/" + std::to_string(getppid()) + "/status");
  for (std::string key; status >> key; status.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    long kb = 0;
    if (key == "VmHWM:" && status >> kb) return kb;
  }
  return 0;
}

void sum_once(const std::string& group) {
  const int size = syncbn::get_group_size(group);
  float value = static_cast<float>(syncbn::get_rank(group) + 1);
  syncbn::all_reduce_sum(std::span(&value, 1), group);
  if (value == static_cast<float>(size * (size + 1) / 2)) return;
  std::fprintf(stderr, "group %s: the sum is %g, expected %d\n", group.c_str(), static_cast<double>(value),
               size * (size + 1) / 2);
  std::exit(EXIT_FAILURE);
}

// Sums only if `sums` is true: the first sum makes the world's connections.
void start(double begin, bool sums, int groups) {
  const double joined = now();
  if (sums) sum_once("world");
  const double first = now();
  if (sums) sum_once("world");
  const double second = now();
  std::vector<int> all;
  for (int rank = 0; rank < syncbn::get_group_size(); ++rank) all.push_back(rank);
  for (int g = 0; g < groups; ++g) {
    const std::string name = "group " + std::to_string(g);
    syncbn::create_group(name, all);
    sum_once(name);
  }
  const double end = now();
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  std::printf(
      "{\"rank\": %d, \"begin\": %.6f, \"joined\": %.6f, \"first\": %.6f, \"second\": %.6f, "
      "\"end\": %.6f, \"own_kb\": %ld, \"parent_kb\": %ld}\n",
      syncbn::get_rank(), begin, joined, first, second, end, own_peak_kb(), parent_peak_kb());
}

}  // namespace

int main(int argc, char** argv) {
  const double begin = now();
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: startup SUMS(0|1) GROUPS [RANKS, as threads]\n");
    return 2;
  }
  const bool sums = std::atoi(argv[1]) != 0;
  const int groups = std::atoi(argv[2]);
  try {
    if (argc == 4) {
      syncbn::run_ranks(std::atoi(argv[3]), [&](int) { start(begin, sums, groups); });
    } else {
      syncbn::init();
      start(begin, sums, groups);
      syncbn::release();
    }
  } catch (const syncbn::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
