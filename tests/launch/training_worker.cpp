// SPDX-License-Identifier: Apache-2.0

// A worker of training_test.cpp: one or two training steps of one layer on rank-dependent data.
// Usage: launch_training_worker train | where | fail | fail_late | die | mismatch | absent | stay
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "syncbn/syncbn.h"

namespace {

constexpr int kOwnFailure = 9;
constexpr int kMismatch = 3;
constexpr int kOtherError = 4;

// numpy.linspace(0, 5, size)
std::vector<float> ramp(std::int64_t size) {
  std::vector<float> x;
  for (std::int64_t i = 0; i < size; ++i)
    x.push_back(static_cast<float>(5.0 * static_cast<double>(i) / static_cast<double>(size - 1)));
  return x;
}

void step(syncbn::SyncBatchNorm& layer, int rank) {
  const syncbn::Shape shape = rank == 0 ? syncbn::Shape{2, 3, 2, 2} : syncbn::Shape{3, 3, 3, 3};
  const std::vector<float> x = ramp(shape.elements());
  std::vector<float> y(x.size());
  layer.forward(syncbn::view(x, shape), syncbn::view(y, shape));
  fmt::print("mean");
  for (const double mean : layer.saved().mean) fmt::print(" {:.7f}", mean);
  fmt::print("\n");
}

std::string peer_file() { return std::getenv("DIR") + std::string("/peer"); }

// The other rank writes its process number there before its first step.
pid_t read_peer() {
  pid_t pid = 0;
  std::ifstream(peer_file()) >> pid;
  return pid;
}

void outlive(pid_t pid) {
  while (kill(pid, 0) == 0) usleep(1000);
}

void work(const std::string& mode) {
  const bool odd_one = std::getenv("RANK_ID") == std::string("1");
  if (mode == "fail_late" && !odd_one) std::ofstream(peer_file()) << getpid();
  if (mode == "absent" && odd_one) {
    for (;;) pause();
  }
  syncbn::init();
  const int rank = syncbn::get_rank();
  fmt::print("rank {} of {}", rank, syncbn::get_group_size());
  if (mode == "where")
    fmt::print(", local rank {} of {}, LOCAL_RANK {}", syncbn::get_local_rank(),
               syncbn::get_local_rank_size(), std::getenv("LOCAL_RANK"));
  fmt::print("\n");
  while (mode == "stay") pause();
  syncbn::SyncBatchNormOptions options;
  if (mode == "mismatch" && odd_one) options.eps = 1e-3;
  syncbn::SyncBatchNorm layer(3, options);
  step(layer, rank);
  if (mode == "die" && odd_one) raise(SIGKILL);
  if (mode == "fail" && odd_one) {
    fmt::print("no more data\n");
    std::exit(kOwnFailure);
  }
  if (mode == "fail_late" && odd_one) {
    // An interpreter prints the exception at once. It then takes long to end.
    fmt::print(stderr, "Traceback (most recent call last):\nno more data\n");
    syncbn::release();  // breaks the connections
    outlive(read_peer());
    sleep(1);
    std::exit(kOwnFailure);
  }
  if (mode == "die" || mode.starts_with("fail")) step(layer, rank);
  syncbn::release();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    work(argc > 1 ? argv[1] : "train");
    return 0;
  } catch (const syncbn::MismatchError& error) {
    fmt::print("MismatchError: {}\n", error.what());
    return kMismatch;
  } catch (const syncbn::Error& error) {
    fmt::print("error: {}\n", error.what());
    return kOtherError;
  }
}
