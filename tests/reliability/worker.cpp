// SPDX-License-Identifier: Apache-2.0

// One rank of a job in which one rank does wrong: `reliability_worker <engine> <phase> <fault> <culprit>`, or
// two ranks: <culprit>,<culprit>. Engine `threads`: all three ranks in this process; else the world that the
// environment describes. Each rank
// prints a line "rank <r>: <outcome>", `right` only where every result had the bits of a run without other
// ranks, and waits for the file SYNCBN_TEST_GO before it ends.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "checked_layer.h"

namespace {

using namespace syncbn;
using namespace std::chrono_literals;
using reliability::CheckedLayer;
using reliability::Shares;

constexpr int kSteps = 4;
constexpr int kFaultyStep = 2;

int number_in(const char* variable, int otherwise) {
  const char* value = getenv(variable);
  return value == nullptr ? otherwise : std::atoi(value);
}

std::int64_t channels() { return number_in("SYNCBN_TEST_CHANNELS", 4); }

struct Plan {
  bool threads = false;
  std::string phase, fault;
  std::vector<int> culprits = {};
  int size = number_in("WORLD_SIZE", 3);
};

void say(int rank, const std::string& text) {
  fmt::print("rank {}: {}\n", rank, text);
  std::fflush(stdout);
}

void wait_for(const char* variable) {
  const char* file = getenv(variable);
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (file != nullptr && access(file, F_OK) != 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(5ms);
}

// One rank's way through the phases.
class Rank {
 public:
  Rank(const Plan& plan, int rank) : plan_(plan), rank_(rank) {}

  void join() {
    phase("init", [] { init(); }, {});
  }
  void make_group() {
    std::vector<int> all(static_cast<std::size_t>(plan_.size));
    std::iota(all.begin(), all.end(), 0);
    const std::vector<int> reversed(all.rbegin(), all.rend());
    phase("create_group", [&] { create_group("dp", all); },
          {{"order", [&] { create_group("dp", reversed); }}});
  }
  void train() {
    SyncBatchNormOptions options;
    options.process_group = "dp";
    options.name = "bn1";
    if (here("forward") && plan_.fault == "eps") options.eps = 1e-3;
    first_ = std::make_unique<CheckedLayer>(channels(), options);
    options.name = "bn2";
    second_ = std::make_unique<CheckedLayer>(channels(), options);
    for (step_ = 0; step_ < kSteps; ++step_) {
      const Shares good = shares();
      now_ = good;
      phase("forward", [&] { forward(*first_); },
            {{"order", [&] { forward(*second_), forward(*first_); }},
             {"channels", [&] { other(channels() + 1, DType::float32, "bn1", false); }},
             {"dtype", [&] { other(channels(), DType::float64, "bn1", false); }}});
      forward(*second_);
      phase("backward", [&] { backward(*second_); },
            {{"order", [&] { backward(*first_), backward(*second_); }},
             {"channels", [&] { other(channels() + 1, DType::float32, "", true); }},
             {"dtype", [&] { other(channels(), DType::float64, "", true); }}});
      backward(*first_);
    }
  }

  // What an error must have left alone. "" or what is wrong.
  std::string damage() {
    if (!first_) return "";
    std::string text;
    if (first_->state() != before_first_ || second_->state() != before_second_) text += ", STATE CHANGED";
    try {
      first_->forward(step_, shares(), static_cast<std::size_t>(rank_));
      text += ", GROUP NOT BROKEN";
    } catch (const GroupError&) {
    }
    return text;
  }

 private:
  bool here(const std::string& phase) const {
    return plan_.phase == phase && std::ranges::count(plan_.culprits, rank_) > 0;
  }

  // Only a culprit may bring nothing, but all must know it for their comparison.
  Shares shares() const {
    Shares shares;
    for (int r = 0; r < plan_.size; ++r) shares.push_back({r, r + 2});
    if (plan_.fault == "empty" && step_ == kFaultyStep) {
      for (const int culprit : plan_.culprits) shares[static_cast<std::size_t>(culprit)].samples = 0;
    }
    return shares;
  }

  void phase(const std::string& name, const std::function<void()>& right,
             const std::vector<std::pair<std::string, std::function<void()>>>& wrong) {
    if (first_) remember();
    const bool training = name == "forward" || name == "backward";
    if (plan_.fault == "pause" && plan_.phase == name &&
        step_ == kFaultyStep) {  // of all ranks, for the driver
      say(rank_, "ready");
      wait_for("SYNCBN_TEST_PAUSE");
    }
    if (!here(name) || (training && step_ != kFaultyStep)) return right();
    if (plan_.fault == "kill") raise(SIGKILL);
    if (plan_.fault == "stop") raise(SIGSTOP);
    if (plan_.fault == "exception") throw std::runtime_error("no more data");
    if (plan_.fault == "skip") return;
    if (plan_.fault == "slow") std::this_thread::sleep_for(700ms);
    for (const auto& [fault, call] : wrong) {
      if (fault == plan_.fault) return call();
    }
    right();
  }

  void remember() {
    before_first_ = first_->state();
    before_second_ = second_->state();
  }
  void forward(CheckedLayer& layer) {
    layer.forward(step_, now_, static_cast<std::size_t>(rank_));
    remember();
  }
  void backward(CheckedLayer& layer) { layer.backward(step_, now_, static_cast<std::size_t>(rank_)); }

  // A call with other channels or another dtype: forward on a layer of that kind, backward on this rank's
  // layer.
  void other(std::int64_t channels, DType dtype, const std::string& name, bool backward) {
    const Shape shape{2, channels, 3};
    std::vector<double> in(static_cast<std::size_t>(shape.elements()), 1), out(in.size());
    const ConstTensorView x{in.data(), dtype, shape, Layout::channels_first};
    const TensorView y{out.data(), dtype, shape, Layout::channels_first};
    if (backward) return second_->layer().backward(x, x, y);
    SyncBatchNormOptions options;
    options.process_group = "dp";
    options.name = name;
    SyncBatchNorm(channels, options).forward(x, y);
  }

  const Plan& plan_;
  const int rank_;
  int step_ = 0;
  Shares now_;
  std::unique_ptr<CheckedLayer> first_, second_;
  std::vector<std::byte> before_first_, before_second_;
};

void run(const Plan& plan, int rank) {
  Rank program(plan, rank);
  const auto report = [&](const char* outcome, const std::exception& error) {
    say(rank, fmt::format("{}{}: {}", outcome, program.damage(), error.what()));
  };
  try {
    if (!plan.threads) program.join();
    program.make_group();
    program.train();
    say(rank, "right");
  } catch (const InvalidArgument& error) {
    report("InvalidArgument", error);
  } catch (const MismatchError& error) {
    report("MismatchError", error);
  } catch (const PeerError& error) {
    report("PeerError", error);
  } catch (const TimeoutError& error) {
    report("TimeoutError", error);
  } catch (const GroupError& error) {
    say(rank, fmt::format("GroupError: {}", error.what()));
  } catch (const std::logic_error& error) {
    say(rank, fmt::format("WRONG RESULT: {}", error.what()));
  }
}

int rank_in_environment() {
  for (const char* name : {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"}) {
    if (const char* value = getenv(name)) return std::atoi(value);
  }
  return 0;
}

}  // namespace

extern "C" const char* __tsan_default_suppressions() { return "race:libgloo\nrace:gloo::transport\n"; }

int main(int count, char** arguments) {
  if (count != 5) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlives the driver, or the launcher
  Plan plan{arguments[1] == std::string("threads"), arguments[2], arguments[3]};
  std::istringstream culprits(arguments[4]);
  for (std::string culprit; std::getline(culprits, culprit, ',');)
    plan.culprits.push_back(std::stoi(culprit));
  try {
    if (plan.threads)
      run_ranks(plan.size, [&](int rank) { run(plan, rank); });
    else
      run(plan, rank_in_environment());
  } catch (const std::exception& error) {
    fmt::print("ends by an exception: {}\n", error.what());
    return 1;
  }
  wait_for("SYNCBN_TEST_GO");
  return 0;
}
