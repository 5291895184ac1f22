// SPDX-License-Identifier: Apache-2.0

// Data-parallel training in C++: two linear layers with batch normalization and ReLU between them learn
// whether the two coordinates of a point have the same sign. Each rank brings eight points a step. Alone the
// program runs two ranks as threads; `syncbn-run -n 2 train` runs two processes.
#include <syncbn/syncbn.h>

#include <cstdio>
#include <random>
#include <vector>

constexpr std::size_t kInputs = 2, kHidden = 32, kBatch = 8, kSteps = 2000;
constexpr float kRate = 0.02f;
using Values = std::vector<float>;

void descend(std::span<float> values, std::span<const float> gradient) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] -= kRate * gradient[i];
}

void train(int rank) {
  std::mt19937 weights(1), samples(static_cast<unsigned>(rank + 2));  // equal weights, different samples
  std::uniform_real_distribution<float> uniform(-1, 1);
  Values w1(kHidden * kInputs), w2(kHidden);
  for (Values* w : {&w1, &w2})
    for (float& value : *w) value = uniform(weights);
  syncbn::SyncBatchNorm norm(kHidden, {.activation = syncbn::Activation::relu});

  const syncbn::Shape shape{kBatch, kHidden};
  Values x(kBatch * kInputs), h(kBatch * kHidden), y(h.size()), dy(h.size()), dh(h.size());
  float loss = 0;  // of this rank's last 400 steps
  for (std::size_t step = 1; step <= kSteps; ++step) {
    for (float& value : x) value = uniform(samples);
    for (std::size_t n = 0; n < kBatch; ++n)
      for (std::size_t k = 0; k < kHidden; ++k)
        h[n * kHidden + k] = w1[k * kInputs] * x[n * kInputs] + w1[k * kInputs + 1] * x[n * kInputs + 1];
    norm.forward({.x = view(h, shape), .y = view(y, shape)});  // statistics of all ranks' points

    Values dw1(w1.size()), dw2(w2.size());
    for (std::size_t n = 0; n < kBatch; ++n) {
      float error = x[n * kInputs] * x[n * kInputs + 1] > 0 ? -1.0f : 1.0f;  // prediction - label
      for (std::size_t k = 0; k < kHidden; ++k) error += w2[k] * y[n * kHidden + k];
      for (std::size_t k = 0; k < kHidden; ++k) {
        dw2[k] += error * y[n * kHidden + k] / kBatch;
        dy[n * kHidden + k] = error * w2[k] / kBatch;
      }
      loss += error * error / (400 * kBatch);
    }
    norm.backward({.dy = view(dy, shape), .x = view(h, shape), .y = view(y, shape), .dx = view(dh, shape)});
    for (std::size_t n = 0; n < kBatch; ++n)
      for (std::size_t k = 0; k < kHidden; ++k)
        for (std::size_t i = 0; i < kInputs; ++i)
          dw1[k * kInputs + i] += dh[n * kHidden + k] * x[n * kInputs + i];

    // The ranks' gradients are added up, exactly, and every rank takes the same step.
    const auto dweight = norm.values<float>("weight_grad"), dbias = norm.values<float>("bias_grad");
    for (const std::span<float> values : {std::span(dw1), std::span(dw2), dweight, dbias})
      syncbn::all_reduce_sum(values);
    descend(w1, dw1);
    descend(w2, dw2);
    descend(norm.values<float>("weight"), dweight);
    descend(norm.values<float>("bias"), dbias);
    if (step % 400 != 0) continue;
    if (rank == 0) std::printf("step %4zu: loss %.3f\n", step, loss);
    loss = 0;
  }
}

int main() {
  syncbn::init();  // the world that a launcher describes, else a world of one
  if (syncbn::get_group_size() > 1)
    train(syncbn::get_rank());
  else
    syncbn::run_ranks(2, train);
}
