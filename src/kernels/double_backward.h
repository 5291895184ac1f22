// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/accumulate.h"
#include "kernels/kernels.h"

/// Gradients of gradients. With m = x − mean, r = invstd, w = weight, n the count, A = Σdy', B = Σdy'·m (from
/// backward), u, v, z the gradients that arrive for dx, weight_grad and bias_grad, t the one for d_residual,
/// and the group's sums U = Σu, V = Σu·m, Q = Σu·dy', Av = Σ v·A_own, Bv = Σ v·B_own (over the ranks, because
/// weight_grad is a rank's own):
///
///     d_dy     = w r (u − U/n − m r² V/n) + v r m + z + t,   0 where ReLU closed
///     d_x      = (w r³/n) [m (U A/n − Q + 3 r² B V/n) + V (A/n − dy') + B (U/n − u)]
///                + r (v dy' − Av/n) − m r³ Bv/n
///     d_weight = r (Q_own − U A_own/n − r² V B_own/n)
///
/// d_weight takes the group's U and V with the rank's own A and B; the other way round is right on one rank
/// only. If the statistics were constants (evaluation), all sums but Q_own are zero.
///
/// The message: records of (u, x), records of (dy', u), value rows of v·A_own and of v·B_own, one a channel
/// each.
namespace syncbn::kernels::double_backward {

std::size_t words(std::int64_t channels, DType dtype);
void accumulate(AccumulatePart accumulate_part, const DoubleBackwardCall& call,
                std::span<std::int64_t> message);
void differentiate(const DoubleBackwardCall& call, std::span<const std::int64_t> message);

}  // namespace syncbn::kernels::double_backward
