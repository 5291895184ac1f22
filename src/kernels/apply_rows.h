#pragma once

#include <cstddef>

#include "kernels/apply.h"
#include "kernels/convert.h"

/// The vector code of apply: some rows of memory, each `stride` elements after the one before.
namespace syncbn::kernels {

struct Extent {
  std::size_t rows, n, stride;
  std::size_t ahead;               ///< How far behind an element lies one that is read soon, and fetched now.
  std::size_t residual_ahead = 0;  ///< Likewise in the residual, which no sum reads: in channels-first.
  /// Likewise for what is written through the caches; 0: the machine sees it coming.
  std::size_t written_ahead = 0;
};

template <class Storage>
struct NormalizeRows {
  const Storage *x, *residual;  ///< residual may be null.
  Storage* y;
  Extent extent;
};
template <class Storage>
struct GradientRows {
  const Storage *dy, *x, *y;  ///< y is null where there was no ReLU.
  Storage *dx, *d_residual;   ///< May be null; dx may be dy.
  Extent extent;
};

/// Storage: float, double, float16 or bfloat16.
template <class Storage>
void normalize_rows(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c,
                    Write write);
template <class Storage>
void differentiate_rows(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c,
                        Write write);

}  // namespace syncbn::kernels
