// SPDX-License-Identifier: Apache-2.0
#include "network.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "syncbn/tensor.h"

namespace {

/// Uniform in ±1/sqrt(inputs), from the bits of the engine: the same with every standard library.
std::vector<float> random_weights(std::mt19937_64& random, std::size_t inputs, std::size_t outputs) {
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  std::vector<float> weights(inputs * outputs);
  for (float& w : weights)
    w = static_cast<float>((static_cast<double>(random() >> 11) * 0x1p-52 - 1) * bound);
  return weights;
}

/// out = bias + in · weights, weights (inputs, outputs). The inner loop runs over outputs, so it vectorises
/// without a change of any sum's order.
void linear(std::span<const float> in, std::span<const float> weights, std::span<float> out) {
  for (std::size_t i = 0; i < in.size(); ++i)
    for (std::size_t o = 0; o < out.size(); ++o) out[o] += in[i] * weights[i * out.size() + o];
}

/// Adds the gradient of linear's weights to `d_weights`.
void linear_weight_gradient(std::span<const float> in, std::span<const float> d_out,
                            std::span<float> d_weights) {
  for (std::size_t i = 0; i < in.size(); ++i)
    for (std::size_t o = 0; o < d_out.size(); ++o) d_weights[i * d_out.size() + o] += in[i] * d_out[o];
}

/// Overwrites `d_in` with the gradient of linear's input.
void linear_input_gradient(std::span<const float> d_out, std::span<const float> weights,
                           std::span<float> d_in) {
  for (std::size_t i = 0; i < d_in.size(); ++i) {
    float sum = 0;
    for (std::size_t o = 0; o < d_out.size(); ++o) sum += weights[i * d_out.size() + o] * d_out[o];
    d_in[i] = sum;
  }
}

/// Replaces logits by probabilities. Returns the cross-entropy of the label.
double softmax(std::span<float> logits, int label) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;
  for (float& logit : logits) sum += logit = std::exp(logit - largest);
  for (float& logit : logits) logit /= sum;
  return -std::log(std::max(static_cast<double>(logits[static_cast<std::size_t>(label)]), 1e-30));
}

syncbn::SyncBatchNormOptions norm_options(syncbn::ProcessGroup group) {
  syncbn::SyncBatchNormOptions options;
  options.process_group = std::move(group);
  options.activation = syncbn::Activation::relu;
  return options;
}

}  // namespace

Network::Network(std::size_t hidden, std::uint64_t seed, syncbn::ProcessGroup group)
    : hidden_(hidden),
      bias_(kClasses),
      norm_(static_cast<std::int64_t>(hidden), norm_options(std::move(group))) {
  std::mt19937_64 random(seed);
  first_ = random_weights(random, kPixels, hidden);
  second_ = random_weights(random, hidden, kClasses);
  std::size_t total = 0;
  for (const auto values : parameters()) total += values.size();
  gradients_.resize(total);
}

std::vector<std::span<float>> Network::parameters() {
  return {first_, norm_.values<float>("weight"), norm_.values<float>("bias"), second_, bias_};
}

void Network::forward(std::span<const float> pixels, std::size_t samples) {
  x_.assign(samples * hidden_, 0);
  y_.resize(samples * hidden_);
  logits_.resize(samples * kClasses);
  for (std::size_t s = 0; s < samples; ++s)
    linear(pixels.subspan(s * kPixels, kPixels), first_, std::span(x_).subspan(s * hidden_, hidden_));

  const syncbn::Shape shape{static_cast<std::int64_t>(samples), static_cast<std::int64_t>(hidden_)};
  norm_.forward(view(std::as_const(x_), shape), view(y_, shape));

  for (std::size_t s = 0; s < samples; ++s) {
    const auto logits = std::span(logits_).subspan(s * kClasses, kClasses);
    std::copy(bias_.begin(), bias_.end(), logits.begin());
    linear(std::span(y_).subspan(s * hidden_, hidden_), second_, logits);
  }
}

void Network::train_step(const Digits& share, std::size_t global_count) {
  const std::size_t samples = share.count();
  norm_.set_train();
  forward(share.pixels, samples);

  std::fill(gradients_.begin(), gradients_.end(), 0.0F);
  auto rest = std::span(gradients_);
  const auto next = [&rest](std::size_t size) { return std::exchange(rest, rest.subspan(size)).first(size); };
  const auto d_first = next(first_.size()), d_weight = next(hidden_), d_norm_bias = next(hidden_),
             d_second = next(second_.size()), d_bias = next(kClasses);

  dy_.resize(samples * hidden_);
  dx_.resize(samples * hidden_);
  for (std::size_t s = 0; s < samples; ++s) {
    const auto d_logits = std::span(logits_).subspan(s * kClasses, kClasses);
    softmax(d_logits, share.labels[s]);
    d_logits[static_cast<std::size_t>(share.labels[s])] -= 1;
    for (float& d : d_logits) d /= static_cast<float>(global_count);
    for (std::size_t c = 0; c < kClasses; ++c) d_bias[c] += d_logits[c];
    linear_weight_gradient(std::span(y_).subspan(s * hidden_, hidden_), d_logits, d_second);
    linear_input_gradient(d_logits, second_, std::span(dy_).subspan(s * hidden_, hidden_));
  }

  const syncbn::Shape shape{static_cast<std::int64_t>(samples), static_cast<std::int64_t>(hidden_)};
  norm_.backward({.dy = view(std::as_const(dy_), shape),
                  .x = view(std::as_const(x_), shape),
                  .y = view(std::as_const(y_), shape),
                  .dx = view(dx_, shape)});
  std::ranges::copy(norm_.values<float>("weight_grad"), d_weight.begin());
  std::ranges::copy(norm_.values<float>("bias_grad"), d_norm_bias.begin());

  for (std::size_t s = 0; s < samples; ++s)
    linear_weight_gradient(std::span(share.pixels).subspan(s * kPixels, kPixels),
                           std::span(dx_).subspan(s * hidden_, hidden_), d_first);
}

Score Network::evaluate(const Digits& digits) {
  norm_.set_train(false);
  forward(digits.pixels, digits.count());
  Score score;
  score.count = digits.count();
  for (std::size_t s = 0; s < digits.count(); ++s) {
    const auto logits = std::span(logits_).subspan(s * kClasses, kClasses);
    const auto guess = std::max_element(logits.begin(), logits.end()) - logits.begin();
    if (guess == digits.labels[s]) ++score.correct;
    score.loss += softmax(logits, digits.labels[s]);
  }
  return score;
}
