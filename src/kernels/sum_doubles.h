// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "exact/record.h"
#include "kernels/window.h"

namespace syncbn::kernels {

/// Maximum number of elements in one call of sum_doubles.
inline constexpr std::size_t kMaxDoubles = 1024;

/// Adds Σa and Σa·b of a block of doubles to their channel's record, held as digits, and propagates its
/// carries. Covers the whole range of double, without windows. NaN and infinities become flags.
void sum_doubles(const Rows<double>& terms, exact::Record record);

}  // namespace syncbn::kernels
