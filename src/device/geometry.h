// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/simt.h"

/// Where the elements of a tensor are, for threads that take neighbouring packs of it.
namespace syncbn::device {

/// Division of numbers below divisor + kReach. A GPU has no instruction for division; one of 64 bits takes
/// some 70.
struct Division {
  static constexpr std::int64_t kReach = 1 << 14;
  static constexpr std::int64_t kSmall = 1 << 15;

  std::int64_t divisor;
  std::uint64_t inverse;  ///< 2^32 / divisor, rounded up; 0 if the divisor is not below kSmall.

  /// number / divisor, for 0 <= number < divisor + kReach. Exact, as number · divisor < 2^32 below kSmall.
  SYNCBN_SIMT std::int64_t quotient(std::int64_t number) const {
    if (inverse == 0) return number >= divisor ? 1 : 0;  // divisor > kReach
    return static_cast<std::int64_t>((static_cast<std::uint64_t>(number) * inverse) >> 32);
  }
};
inline Division division_by(std::int64_t divisor) {
  const std::int64_t inverse = ((std::int64_t{1} << 32) + divisor - 1) / divisor;
  return {divisor, divisor < Division::kSmall ? static_cast<std::uint64_t>(inverse) : 0};
}

}  // namespace syncbn::device
