#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/accumulate.h"
#include "kernels/apply.h"
#include "kernels/batch.h"
#include "kernels/convert.h"

/// The kernels as plain loops: what they compute, for reading, for machines without vector code, for float64,
/// and as the twin that every fast path must equal bit for bit.
namespace syncbn::kernels::reference {

/// Adds Σa and Σa·b of a part to its records, which are digits.
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                exact::Records records);

/// y = fma(x − mean_hi, k, shift), plus residual, through ReLU; rounded once to the storage type.
template <class Storage>
void normalize(const Storage* x, const Storage* residual, Storage* y, std::size_t n,
               const NormalizeSegment<Compute<Storage>>& c) {
  using T = Compute<Storage>;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t j = c.per_element ? i : 0;
    const T centred = widen(x[i]) - c.mean_hi[j];
    T value = std::fma(centred, c.k[j], c.shift[j]);
    if (residual != nullptr) value = value + widen(residual[i]);
    if (c.relu) value = passes(value) ? value : T{0};
    y[i] = narrow<Storage>(value);
  }
}

/// dx = fma(k, dy', fma(c2, x − mean_hi, c1)), or k·dy' where the statistics were not the batch's; d_residual
/// = dy'. y is null where there is no ReLU; dx and d_residual may be null.
template <class Storage>
void differentiate(const Storage* dy, const Storage* x, const Storage* y, Storage* dx, Storage* d_residual,
                   std::size_t n, const GradientSegment<Compute<Storage>>& c) {
  using T = Compute<Storage>;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t j = c.per_element ? i : 0;
    const T masked = y == nullptr || passes(widen(y[i])) ? widen(dy[i]) : T{0};
    if (d_residual != nullptr) d_residual[i] = narrow<Storage>(masked);
    if (dx == nullptr) continue;
    if (c.of_batch) {
      const T centred = widen(x[i]) - c.mean_hi[j];
      dx[i] = narrow<Storage>(std::fma(c.k[j], masked, std::fma(c.c2[j], centred, c.c1[j])));
    } else {
      dx[i] = narrow<Storage>(c.k[j] * masked);
    }
  }
}

}  // namespace syncbn::kernels::reference
