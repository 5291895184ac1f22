// SPDX-License-Identifier: Apache-2.0
#include "network.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "syncbn/group.h"
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

syncbn::SyncBatchNormOptions norm_options(const std::string& statistics, const std::string& rounding) {
  using syncbn::AffineGradients;
  syncbn::SyncBatchNormOptions options;
  options.process_group = statistics;
  options.activation = syncbn::Activation::relu;
  options.affine_gradients = rounding == statistics ? AffineGradients::group : AffineGradients::local;
  return options;
}

/// Values as a matrix of `columns` columns.
template <class T>
auto matrix(T& values, std::size_t columns) {
  return syncbn::view(
      values, {static_cast<std::int64_t>(values.size() / columns), static_cast<std::int64_t>(columns)});
}

}  // namespace

Network::Network(std::size_t hidden, std::uint64_t seed, const std::string& statistics,
                 const std::string& rounding)
    : hidden_(hidden),
      rounding_(rounding),
      adds_norm_gradients_(statistics != syncbn::kWorldGroup || rounding != syncbn::kWorldGroup),
      bias_(kClasses),
      norm_(static_cast<std::int64_t>(hidden), norm_options(statistics, rounding)) {
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

  norm_.forward(matrix(std::as_const(x_), hidden_), matrix(y_, hidden_));

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
    linear_input_gradient(d_logits, second_, std::span(dy_).subspan(s * hidden_, hidden_));
  }

  norm_.backward({.dy = matrix(std::as_const(dy_), hidden_),
                  .x = matrix(std::as_const(x_), hidden_),
                  .y = matrix(std::as_const(y_), hidden_),
                  .dx = matrix(dx_, hidden_)});
  std::ranges::copy(norm_.values<float>("weight_grad"), d_weight.begin());
  std::ranges::copy(norm_.values<float>("bias_grad"), d_norm_bias.begin());
  if (adds_norm_gradients_) {
    syncbn::all_reduce_sum(d_weight);
    syncbn::all_reduce_sum(d_norm_bias);
  }

  ones_.assign(samples, 1);
  sum_products(matrix(share.pixels, kPixels), matrix(dx_, hidden_), d_first);
  sum_products(matrix(y_, hidden_), matrix(logits_, kClasses), d_second);  // logits_ holds d_logits
  sum_products(matrix(ones_, 1), matrix(logits_, kClasses), d_bias);
}

void Network::sum_products(const syncbn::ConstTensorView& a, const syncbn::ConstTensorView& b,
                           std::span<float> products) {
  const syncbn::Shape shape{a.shape.channels(), b.shape.channels()};
  syncbn::all_reduce_matmul(a, b, view(products, shape), rounding_);
  if (rounding_ != syncbn::kWorldGroup) syncbn::all_reduce_sum(products);
}

Score Network::evaluate(const Digits& digits, Share rows) {
  norm_.set_train(false);
  forward(std::span(digits.pixels).subspan(rows.begin * kPixels, rows.count() * kPixels), rows.count());
  std::vector<double> scores;  // (rows, 2): loss, and 1 for a hit
  for (std::size_t s = 0; s < rows.count(); ++s) {
    const auto logits = std::span(logits_).subspan(s * kClasses, kClasses);
    const int label = digits.labels[rows.begin + s];
    const auto guess = std::max_element(logits.begin(), logits.end()) - logits.begin();
    scores.push_back(softmax(logits, label));
    scores.push_back(guess == label ? 1 : 0);
  }
  std::vector<double> ones(rows.count(), 1), sums(2);
  syncbn::all_reduce_matmul(matrix(ones, 1), matrix(scores, 2), matrix(sums, 2));
  return {sums[0], sums[1], digits.count()};
}
