#pragma once

#include <optional>

namespace syncbn::kernels {

/// Ways with the same results, of which a call takes the fastest; tests force each.
struct Paths {
  std::optional<bool> fused;      ///< Sums, coefficients and results of some channels at a time.
  std::optional<bool> streaming;  ///< Results pass by the caches.
};
Paths& forced_paths();

}  // namespace syncbn::kernels
