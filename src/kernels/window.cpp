#include "kernels/window.h"

#include <bit>

namespace syncbn::kernels {
namespace {

// 1.5·2^exponent
double start(int exponent) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52 | std::uint64_t{1} << 51);
}
std::uint32_t floor_bits(int exponent) {
  return exponent <= -126 ? 0u : static_cast<std::uint32_t>(exponent + 127) << 23;
}
std::uint32_t ceiling_bits(int exponent) { return static_cast<std::uint32_t>(exponent + 128) << 23; }

}  // namespace

Window make_window(int max_exponent_a, int max_exponent_b) {
  constexpr int l = kLogAdditions;
  constexpr int span = 27 - l;
  // Not lower than where the window's floor is the smallest normal exponent: subnormals share its unit.
  const int a = std::max(max_exponent_a, span - 126);
  const int b = std::max(max_exponent_b, span - 126);
  const int sum = a + 2 + l;       // |Σa| < 2^(sum - 1)
  const int high = a + b + 3 + l;  // |Σa·b| < 2^(high - 1)
  const int low = high - 51 + l;   // each rest is at most half an ulp of the high part
  return {start(sum),           start(high),     start(low),           sum - 52,       high - 52, low - 52,
          floor_bits(a - span), ceiling_bits(a), floor_bits(b - span), ceiling_bits(b)};
}

Window half_window() {
  // |a| < 2^16, units of 2^-24 and, for products, 2^-48; up to 2^9 additions an accumulator.
  static_assert(kLogAdditions <= 9);
  constexpr std::uint32_t above = (16u + 127u) << 23;
  return {0x1.8p28, 0x1.8p42, 0x1.8p4, -24, -10, -48, 0, above, 0, above};
}

}  // namespace syncbn::kernels
