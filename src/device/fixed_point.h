// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/simt.h"

/// Exact sums without double precision, which many GPUs have at a 64th of the rate. An element becomes an
/// integer in units of 2^unit,
///
///     x = (X1·2^23 + X2)·2^unit,   |X1| < 2^22, |X2| <= 2^22,
///
/// by two additions in float that round to a multiple of a power of two (Dekker; Rump, Ogita and Oishi). The
/// bits of their results are C1 + X1 and C2 + X2, C1 and C2 the bits of the constants. The bits themselves
/// are summed, modulo 2^32, and multiplied, modulo 2^64. What the constants brought is taken out at the end.
/// Both conditions of exactness are tested on the bits of every element. So a wrong window costs time, never
/// a bit.
namespace syncbn::device {

inline constexpr int kLevelBits = 23;                ///< Between the levels X1 and X2.
inline constexpr int kWindowBits = 45;               ///< |x| < 2^(unit + 45)
inline constexpr int kLowestUnit = -149;             ///< The unit of the subnormals.
inline constexpr int kHighestUnit = 81;              ///< Above, 1.5·2^(46 + unit) is no float.
inline constexpr unsigned kMostInAccumulator = 511;  ///< |ΣX| < 2^31, and Σ|X·Y| of a warp < 2^63.

/// The exponents that one split admits: bits of 1.5·2^(46 + unit) and of 1.5·2^(23 + unit).
struct Window {
  std::uint32_t high, low;
};
SYNCBN_SIMT Window window_at(int unit) {
  const auto constant = [unit](int above) {
    return static_cast<std::uint32_t>(unit + above + 127) << 23 | 0x400000u;
  };
  return {constant(2 * kLevelBits), constant(kLevelBits)};
}
SYNCBN_SIMT int unit_of(const Window& window) {
  return static_cast<int>(window.low >> 23) - 127 - kLevelBits;
}

/// C1 + X1 and C2 + X2 of an element.
struct Fixed {
  std::uint32_t high, low;
};
/// What the elements of a tile have against their windows.
struct Misfits {
  std::uint32_t range = 0;  ///< The upper nine bits stay zero while |x| < 2^(unit + 45) and x is finite.
  std::uint32_t lost = 0;   ///< All bits but the sign stay zero while x is a multiple of 2^unit.
  SYNCBN_SIMT bool exist() const { return (range >> 23 | lost << 1) != 0; }
};
SYNCBN_SIMT Fixed split(float x, const Window& window, Misfits& misfits) {
  const float high = simt::real(window.high), low = simt::real(window.low);
  const float upper = simt::add(x, high);
  const float rest = simt::add(x, -simt::add(upper, -high));
  const float lower = simt::add(rest, low);
  misfits.range |= simt::bits(upper) ^ window.high;
  misfits.lost |= simt::bits(simt::add(lower, -low)) ^ simt::bits(rest);
  return {simt::bits(upper), simt::bits(lower)};
}

/// Sums of one window of a and one of b: Σa = sum·2^unit_a, Σa·b = (high·2^46 + middle·2^23 +
/// low)·2^(unit_a + unit_b).
struct Totals {
  std::int64_t sum, high, middle, low;

  SYNCBN_SIMT Totals plus_other(unsigned mask) const {
    return {sum + simt::shuffle_xor(sum, mask), high + simt::shuffle_xor(high, mask),
            middle + simt::shuffle_xor(middle, mask), low + simt::shuffle_xor(low, mask)};
  }
};

/// Sums of a thread, of up to kMostInAccumulator elements. kSquares: b is a.
template <bool kSquares>
struct Accumulator {
  std::uint32_t a_high = 0, a_low = 0, b_high = 0, b_low = 0;
  std::uint64_t high = 0, middle = 0, low = 0;

  SYNCBN_SIMT void add(const Fixed& a, const Fixed& b) {
    a_high += a.high;
    a_low += a.low;
    high += static_cast<std::uint64_t>(a.high) * b.high;
    middle += static_cast<std::uint64_t>(a.high) * b.low;  // squares: doubled at the end
    low += static_cast<std::uint64_t>(a.low) * b.low;
    if constexpr (!kSquares) {
      b_high += b.high;
      b_low += b.low;
      middle += static_cast<std::uint64_t>(a.low) * b.high;
    }
  }
  /// (X + C)(Y + D) = XY + C·Y + D·X + C·D, so ΣXY = Σ(X + C)(Y + D) − C·ΣY − D·ΣX − n·C·D.
  SYNCBN_SIMT Totals totals(std::uint32_t count, const Window& wa, const Window& wb) const {
    const auto held = [count](std::uint32_t sum, std::uint32_t constant) {
      return static_cast<std::uint64_t>(
          static_cast<std::int64_t>(static_cast<std::int32_t>(sum - count * constant)));
    };
    const std::uint64_t n = count, c1 = wa.high, c2 = wa.low, d1 = wb.high, d2 = wb.low;
    const std::uint64_t a1 = held(a_high, wa.high), a2 = held(a_low, wa.low);
    const std::uint64_t b1 = kSquares ? a1 : held(b_high, wb.high), b2 = kSquares ? a2 : held(b_low, wb.low);
    std::uint64_t cross = middle - (c1 * b2 + d2 * a1 + n * c1 * d2);
    cross = kSquares ? 2 * cross : cross - (c2 * b1 + d1 * a2 + n * c2 * d1);
    return {static_cast<std::int64_t>((a1 << kLevelBits) + a2),
            static_cast<std::int64_t>(high - c1 * b1 - d1 * a1 - n * c1 * d1),
            static_cast<std::int64_t>(cross),
            static_cast<std::int64_t>(low - c2 * b2 - d2 * a2 - n * c2 * d2)};
  }
};

}  // namespace syncbn::device
