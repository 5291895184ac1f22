// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>

#include "exact/record.h"
#include "kernels/types.h"

/// The kernels as plain loops: for reading, for machines without vector code, and as the twin that every fast
/// path must equal bit for bit.
namespace syncbn::kernels::reference {

/// Sets the records of the channels of a part to Σa and Σa·b, as digits.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                exact::Records records);

/// y = fma(x − mean_hi, k, shift), plus residual, through ReLU; rounded once to the storage type.
template <class Storage>
void normalize(const NormalizeRows<Storage>& t, const ForwardColumns<const Compute<Storage>>& c,
               Write = Write::cached) {
  using T = Compute<Storage>;
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    for (std::size_t place = 0; place < t.extent.n; ++place) {
      const std::size_t i = row * t.extent.stride + place;
      const std::size_t j = t.extent.per_element ? place : row;
      const T centred = widen(t.x[i]) - c.mean_hi[j];
      T value = std::fma(centred, c.k[j], c.shift[j]);
      if (t.residual != nullptr) value = value + widen(t.residual[i]);
      if (t.relu) value = passes(value) ? value : T{0};
      t.y[i] = narrow<Storage>(value);
    }
  }
}

/// dx = fma(k, dy', fma(c2, x − mean_hi, c1)), or k·dy' if the statistics were not the batch's; d_residual =
/// dy'.
template <class Storage>
void differentiate(const GradientRows<Storage>& t, const BackwardColumns<const Compute<Storage>>& c,
                   Write = Write::cached) {
  using T = Compute<Storage>;
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    for (std::size_t place = 0; place < t.extent.n; ++place) {
      const std::size_t i = row * t.extent.stride + place;
      const std::size_t j = t.extent.per_element ? place : row;
      const T masked = t.y == nullptr || passes(widen(t.y[i])) ? widen(t.dy[i]) : T{0};
      if (t.d_residual != nullptr) t.d_residual[i] = narrow<Storage>(masked);
      if (t.dx == nullptr) continue;
      if (t.of_batch) {
        const T centred = widen(t.x[i]) - c.mean_hi[j];
        t.dx[i] = narrow<Storage>(std::fma(c.k[j], masked, std::fma(c.c2[j], centred, c.c1[j])));
      } else {
        t.dx[i] = narrow<Storage>(c.k[j] * masked);
      }
    }
  }
}

}  // namespace syncbn::kernels::reference
