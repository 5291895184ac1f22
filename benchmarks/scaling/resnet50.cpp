// SPDX-License-Identifier: Apache-2.0

// The batch norms of ResNet-50 on a simulated network (SimGrid's SMPI): what one forward and backward costs
// in communication, with syncbn and in the form of PyTorch and MindSpore. Rank 0 prints a line of JSON for
// each number of channels and direction: the simulated time from the moment at which all ranks enter the call
// until the last one leaves it.
//
// `exact` runs the library itself: real layers on a Communicator that sums with the simulator's
// MPI_Allreduce, so that the messages have the form and length which src/layer and src/group/agreed_sum.cpp
// give them. `gathered` does what the others do: forward gathers mean, invstd and count of each rank,
// backward sums two vectors, all float32. Both check their results. Time passes on the network only:
// computing costs none.
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <simgrid/s4u/Actor.hpp>
#include <span>
#include <vector>

#include "syncbn/communicator.h"
#include "syncbn/group.h"
#include "syncbn/sync_batch_norm.h"

namespace {

// The numbers of channels in ResNet-50; 53 layers with 26,560 channels have one of them (model.py counts).
constexpr std::array<int, 6> kChannels{64, 128, 256, 512, 1024, 2048};
constexpr int kSamples = 2;  // a rank's; their number changes no message
constexpr double kEps = 1e-5;
constexpr double kMargin = 1;  // seconds; much longer than it takes to agree on a moment

struct Ranks {
  int rank, size;
};

[[noreturn]] void wrong(const char* what, int channel, double is, double expected) {
  std::fprintf(stderr, "%s of channel %d: %.17g, expected %.17g\n", what, channel, is, expected);
  std::exit(EXIT_FAILURE);
}

void expect(const char* what, int channel, double is, double expected, double tolerance) {
  if (!(std::abs(is - expected) <= tolerance * std::abs(expected))) wrong(what, channel, is, expected);
}

// Every rank's batch, of numbers small enough that the group's statistics have closed forms: sample n of rank
// r is c + 2r + n in channel c, hence channel c of the group holds c, c + 1, … c + 2P - 1. Only the first
// sample has a gradient, r + 1.
std::vector<float> batch(Ranks ranks, int channels) {
  std::vector<float> x;
  for (int n = 0; n < kSamples; ++n) {
    for (int c = 0; c < channels; ++c) x.push_back(static_cast<float>(c + kSamples * ranks.rank + n));
  }
  return x;
}

std::vector<float> gradient(Ranks ranks, int channels) {
  std::vector<float> dy(static_cast<std::size_t>(kSamples * channels));
  std::fill_n(dy.begin(), channels, static_cast<float>(ranks.rank + 1));
  return dy;
}

double expected_mean(Ranks ranks, int channel) { return channel + (kSamples * ranks.size - 1) / 2.0; }
double expected_var(Ranks ranks) { return (std::pow(kSamples * ranks.size, 2) - 1) / 12; }
double expected_sum_dy(Ranks ranks) { return ranks.size * (ranks.size + 1) / 2.0; }
// Σ dy · (x - mean), over ranks r of (r + 1) · (2r - P + 1/2)
double expected_sum_dy_centred(Ranks ranks) {
  const double p = ranks.size;
  return (p - 1) * p * (2 * p - 1) / 3 + p * (p - 1) - (p - 0.5) * p * (p + 1) / 2;
}

// The call's time, on rank 0. The simulator's clock is one for all ranks.
double time_of(const std::function<void()>& call) {
  double start = MPI_Wtime() + kMargin;
  MPI_Allreduce(MPI_IN_PLACE, &start, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  if (MPI_Wtime() >= start) wrong("margin", 0, kMargin, MPI_Wtime() - start);
  simgrid::s4u::this_actor::sleep_until(start);
  call();
  const double end = MPI_Wtime();
  double last = 0;
  MPI_Reduce(&end, &last, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
  return last - start;
}

void report(Ranks ranks, int channels, const char* direction, std::size_t bytes, double seconds) {
  if (ranks.rank != 0) return;
  std::printf("{\"channels\": %d, \"direction\": \"%s\", \"bytes\": %zu, \"seconds\": %.9f}\n", channels,
              direction, bytes, seconds);
  std::fflush(stdout);
}

// How the simulated ranks sum.
struct Traffic {
  bool timed = false;     // else in a way that is cheap to simulate
  std::size_t bytes = 0;  // of the last message
  int messages = 0;
};

class SimulatedCommunicator final : public syncbn::Communicator {
 public:
  SimulatedCommunicator(Ranks ranks, Traffic& traffic) : ranks_(ranks), traffic_(traffic) {}
  int rank() const override { return ranks_.rank; }
  int size() const override { return ranks_.size; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (buffer_.size() < words) buffer_.resize(words);
    return buffer_;
  }
  void start(std::size_t words) override {
    const int count = static_cast<int>(words);
    traffic_.bytes = words * sizeof(std::int64_t);
    ++traffic_.messages;
    if (traffic_.timed) {
      MPI_Allreduce(MPI_IN_PLACE, buffer_.data(), count, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    } else {
      MPI_Reduce(rank() == 0 ? MPI_IN_PLACE : buffer_.data(), buffer_.data(), count, MPI_INT64_T, MPI_SUM, 0,
                 MPI_COMM_WORLD);
      MPI_Bcast(buffer_.data(), count, MPI_INT64_T, 0, MPI_COMM_WORLD);
    }
  }
  void wait(syncbn::Deadline) override {}
  void abort() noexcept override {}

 private:
  const Ranks ranks_;
  Traffic& traffic_;
  std::vector<std::int64_t> buffer_;
};

struct Step {
  std::vector<float> x, dy, y, dx;
  syncbn::SyncBatchNorm layer;
};

void run_exact(Ranks ranks) {
  Traffic traffic;
  const auto group = syncbn::make_group("world", std::make_unique<SimulatedCommunicator>(ranks, traffic));
  std::vector<Step> steps;
  for (const int channels : kChannels) {
    const auto size = static_cast<std::size_t>(kSamples * channels);
    syncbn::SyncBatchNormOptions options;
    options.eps = kEps;
    options.process_group = group;
    options.affine_gradients = syncbn::AffineGradients::group;  // for the check: changes no message
    steps.push_back({batch(ranks, channels), gradient(ranks, channels), std::vector<float>(size),
                     std::vector<float>(size), syncbn::SyncBatchNorm(channels, options)});
  }
  const auto shape = [](const Step& step) { return syncbn::Shape{kSamples, step.layer.num_features()}; };
  const auto forward = [&](Step& step) {
    step.layer.forward(view(std::as_const(step.x), shape(step)), view(step.y, shape(step)));
  };
  const auto backward = [&](Step& step) {
    step.layer.backward(view(std::as_const(step.dy), shape(step)), view(std::as_const(step.x), shape(step)),
                        view(step.dx, shape(step)));
  };
  const auto measure = [&](Step& step, const char* direction, const auto& call) {
    traffic.messages = 0;
    const double seconds = time_of([&] { call(step); });
    if (traffic.messages != 1) wrong("messages", 0, traffic.messages, 1);
    report(ranks, static_cast<int>(step.layer.num_features()), direction, traffic.bytes, seconds);
  };

  // In the first round the ranks learn which length follows which call; at the beginning of the second round
  // they learn the length that follows the last call (agreed_sum.cpp). From then on a call is one message, as
  // in a training loop.
  for (int round = 0; round < 2; ++round) {
    for (Step& step : steps) forward(step);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) backward(*step);
  }
  traffic.timed = true;
  for (Step& step : steps) measure(step, "forward", forward);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) measure(*step, "backward", backward);

  for (Step& step : steps) {
    const syncbn::Saved& saved = step.layer.saved();
    for (int c = 0; c < step.layer.num_features(); ++c) {
      const auto i = static_cast<std::size_t>(c);
      expect("mean", c, saved.mean[i], expected_mean(ranks, c), 0);
      expect("var", c, saved.var[i], expected_var(ranks), 1e-15);
      expect("bias gradient", c, step.layer.values<float>("bias_grad")[i], expected_sum_dy(ranks), 0);
      expect("weight gradient", c, step.layer.values<float>("weight_grad")[i],
             expected_sum_dy_centred(ranks) * saved.invstd[i], 1e-7);
    }
  }
}

void run_gathered(Ranks ranks) {
  for (const int channels : kChannels) {
    const auto c_end = static_cast<std::size_t>(channels);
    const std::vector<float> x = batch(ranks, channels), dy = gradient(ranks, channels);
    // A rank's mean, 1 / sqrt(var + eps) of each channel, and its count.
    const std::size_t length = 2 * c_end + 1;
    std::vector<float> own(length), all(length * static_cast<std::size_t>(ranks.size));
    for (std::size_t c = 0; c < c_end; ++c) {
      own[c] = (x[c] + x[c + c_end]) / 2;
      own[c + c_end] = 1 / std::sqrt(std::pow(x[c + c_end] - own[c], 2.0F) + static_cast<float>(kEps));
    }
    own[2 * c_end] = kSamples;
    const auto floats = [](std::size_t count) { return static_cast<int>(count); };
    const double forward = time_of([&] {
      MPI_Allgather(own.data(), floats(length), MPI_FLOAT, all.data(), floats(length), MPI_FLOAT,
                    MPI_COMM_WORLD);
    });
    report(ranks, channels, "forward", length * sizeof(float), forward);

    std::vector<double> mean(c_end);
    for (std::size_t c = 0; c < c_end; ++c) {
      double count = 0, sum = 0, squares = 0;
      for (std::size_t at = 0; at < all.size(); at += length) {
        const double n = all[at + 2 * c_end], m = all[at + c], invstd = all[at + c_end + c];
        count += n;
        sum += n * m;
        squares += n * (1 / (invstd * invstd) - kEps + m * m);
      }
      mean[c] = sum / count;
      expect("mean", static_cast<int>(c), mean[c], expected_mean(ranks, static_cast<int>(c)), 1e-6);
      expect("var", static_cast<int>(c), squares / count - mean[c] * mean[c], expected_var(ranks), 1e-4);
    }

    std::vector<float> sums(2 * c_end);
    for (std::size_t c = 0; c < c_end; ++c) {
      sums[c] = dy[c];
      sums[c + c_end] = static_cast<float>(double{dy[c]} * (double{x[c]} - mean[c]));
    }
    const double backward = time_of([&] {
      MPI_Allreduce(MPI_IN_PLACE, sums.data(), floats(sums.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
    report(ranks, channels, "backward", sums.size() * sizeof(float), backward);
    for (std::size_t c = 0; c < c_end; ++c) {
      expect("sum of dy", static_cast<int>(c), sums[c], expected_sum_dy(ranks), 1e-6);
      expect("sum of dy·(x - mean)", static_cast<int>(c), sums[c + c_end], expected_sum_dy_centred(ranks),
             1e-5);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  Ranks ranks{};
  MPI_Comm_rank(MPI_COMM_WORLD, &ranks.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks.size);
  if (argc == 2 && std::strcmp(argv[1], "exact") == 0) {
    run_exact(ranks);
  } else if (argc == 2 && std::strcmp(argv[1], "gathered") == 0) {
    run_gathered(ranks);
  } else {
    std::fprintf(stderr, "usage: resnet50 exact|gathered\n");
    return 2;
  }
  MPI_Finalize();
  return 0;
}
