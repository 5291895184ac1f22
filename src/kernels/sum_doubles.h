#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/window.h"

namespace syncbn::kernels {

/// Elements that one call of sum_doubles takes at most.
inline constexpr std::size_t kMaxDoubles = 1024;

/// Adds Σa and Σa·b of a block of doubles to the record of their channel and normalises it: the whole range
/// of double, without windows. NaN and infinities become flags.
void sum_doubles(const Rows<double>& terms, std::int64_t* record);

}  // namespace syncbn::kernels
