// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "oracle/number.h"

/// What the layer must compute, bit for bit: the arithmetic of bits_version 1 (docs/design.md) over the whole
/// group's batch at once, operation by operation, with big integers for the exact sums. Values are doubles
/// that hold numbers of the formats in question.
namespace oracle {

struct Settings {
  Type input = Type::float32;
  Type parameters = Type::float32;
  double eps = 1e-5;
  std::optional<double> momentum = 0.1;
  bool relu = false;
  bool group_gradients = false;
  bool skip_nonfinite_update = false;
};

/// Per channel; empty where the layer has none.
struct State {
  std::vector<double> weight, bias;
  std::vector<double> running_mean, running_var;
  std::int64_t batches_tracked = 0;
};

/// What one rank brings: arrays (N, C, S) in C order. residual and dy are empty where there is none.
struct Share {
  std::int64_t samples = 0;
  std::int64_t places = 1;  ///< Product of the spatial sizes.
  std::vector<double> x, residual, dy;
};

/// Of one rank.
struct RankResult {
  std::vector<double> y, dx, d_residual;
  std::vector<double> weight_grad, bias_grad;
};

struct Result {
  std::int64_t count = 0;
  std::vector<double> mean, var, invstd;
  std::vector<RankResult> ranks;
  State state;  ///< After the forward.
};

/// Training: forward, and backward where the shares have dy. A total count of 1 is the caller's affair.
Result train(const Settings& settings, const State& state, std::int64_t channels,
             const std::vector<Share>& shares);
/// Evaluation by one rank alone.
Result evaluate(const Settings& settings, const State& state, std::int64_t channels, const Share& share);

/// Rows of two matrices that one rank brings, in C order.
struct Factors {
  std::int64_t rows = 0;
  std::vector<double> a, b;
};
/// c = aᵀ·b over the rows of all ranks: (a_columns, b_columns), each sum exact and rounded once to `type`.
std::vector<double> matmul(Type type, std::size_t a_columns, std::size_t b_columns,
                           const std::vector<Factors>& shares);

}  // namespace oracle
