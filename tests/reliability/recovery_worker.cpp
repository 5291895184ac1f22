// SPDX-License-Identifier: Apache-2.0

// A rank that goes on after a peer's death: `recovery_worker <rank> <culprit> <kill | stop> <port> <new
// port>`. Three ranks train; in the forward of step 3 the culprit dies or stops. The others leave the world,
// join a new one of two ranks on another port, and go on with what they had. Every result is compared, bit
// for bit, with a layer that has had all batches alone and knows nothing of the fault.
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "checked_layer.h"

namespace {

using namespace syncbn;
using namespace std::chrono_literals;

constexpr int kFaultyStep = 3;

void join(int rank, int size, int port, std::chrono::milliseconds timeout) {
  InitOptions world;
  world.rank = rank;
  world.size = size;
  world.port = port;
  world.timeout = timeout;
  init(world);
}

void go_on(int rank, int culprit, const std::string& fault, int port, int new_port) {
  SyncBatchNormOptions options;
  options.name = "bn";
  reliability::Shares shares = {{0, 2}, {1, 5}, {2, 1}};
  auto mine = static_cast<std::size_t>(rank);
  join(rank, 3, port, fault == "stop" ? 4s : 60s);
  reliability::CheckedLayer layer(5, options);
  for (int step = 0; step < kFaultyStep; ++step) {
    layer.forward(step, shares, mine);
    layer.backward(step, shares, mine);
  }
  if (rank == culprit) raise(fault == "stop" ? SIGSTOP : SIGKILL);
  const auto before = layer.state();
  try {
    layer.forward(kFaultyStep, shares, mine);
    throw std::logic_error("a sum without the culprit");
  } catch (const PeerError& error) {
    fmt::print("PeerError: {}\n", error.what());
  } catch (const TimeoutError& error) {
    fmt::print("TimeoutError: {}\n", error.what());
  }
  if (layer.state() != before) throw std::logic_error("the failed call has changed the state");

  release();
  shares.erase(shares.begin() + culprit);
  mine -= rank > culprit ? 1 : 0;
  join(static_cast<int>(mine), 2, new_port, 60s);
  layer.join_again(options);
  for (int step = kFaultyStep; step < 2 * kFaultyStep; ++step) {
    layer.forward(step, shares, mine);
    layer.backward(step, shares, mine);
  }
  layer.check_state();
  release();
  fmt::print("rank {} of 2: right after the loss of rank {}\n", mine, culprit);
}

}  // namespace

extern "C" const char* __tsan_default_suppressions() { return "race:libgloo\nrace:gloo::transport\n"; }

int main(int count, char** arguments) {
  if (count != 6) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    go_on(std::atoi(arguments[1]), std::atoi(arguments[2]), arguments[3], std::atoi(arguments[4]),
          std::atoi(arguments[5]));
  } catch (const std::exception& error) {
    fmt::print("failed: {}\n", error.what());
    return 1;
  }
  return 0;
}
