// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/accumulate.h"
#include "kernels/kernels.h"

/// Sums of products of two matrices' columns. A message has one value row of products for each sum.
namespace syncbn::kernels::matmul {

/// Adds this rank's products to a message of zeros.
void accumulate(AccumulatePart accumulate_part, const MatmulCall& call, std::span<std::int64_t> message);
/// Writes the sums to c, each rounded once.
void round(const MatmulCall& call, std::span<const std::int64_t> message);

}  // namespace syncbn::kernels::matmul
