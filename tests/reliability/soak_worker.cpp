// SPDX-License-Identifier: Apache-2.0

// A rank of a long run: `soak_worker <rank> <port> <steps>`. Prints its memory and its descriptors after a
// tenth of the steps, when everything has been used, and at the end.
#include <fmt/core.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "checked_layer.h"

namespace {

using namespace syncbn;

long resident_kib() {
  long size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

long descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return std::distance(begin(all), end(all));
}

// A rank that has to wait long talks to the store for a moment.
void print_use(const char* when) {
  long fewest = descriptors();
  for (int look = 0; look < 20; ++look) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    fewest = std::min(fewest, descriptors());
  }
  fmt::print("{}: {} KiB, {} descriptors\n", when, resident_kib(), fewest);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    const int rank = std::atoi(arguments[1]);
    const int steps = std::atoi(arguments[3]);
    InitOptions world;
    world.rank = rank;
    world.size = 2;
    world.port = std::atoi(arguments[2]);
    init(world);
    SyncBatchNormOptions options;
    reliability::CheckedLayer layer(3, options);
    const reliability::Shares shares = {{0, 2}, {1, 1}};
    for (int step = 0; step < steps; ++step) {
      layer.forward(step % 1000, shares, static_cast<std::size_t>(rank));
      layer.backward(step % 1000, shares, static_cast<std::size_t>(rank));
      if (step == steps / 10) print_use("begin");
    }
    print_use("end");
    release();
  } catch (const std::exception& error) {
    fmt::print("failed: {}\n", error.what());
    return 1;
  }
  return 0;
}
