#pragma once

#include <cstddef>
#include <cstdint>

/// The inner loop of the exact sums: Σa and Σa·b of one block of floats, inside a window of exponents.
namespace syncbn::kernels {

/// Elements of a block at most. A longer block narrows the window (more additions an accumulator), a shorter
/// one pays the flush more often.
inline constexpr std::size_t kBlock = 2048;

/// Which elements a pass sums exactly, and where its accumulators start. Accumulators are doubles that begin
/// at 1.5·2^k and stay in that binade, so what they hold is the difference of two bit patterns, in units of
/// ulp(2^k).
struct Window {
  double sum_start, high_start, low_start;
  int sum_ulp, high_ulp, low_ulp;  ///< log2 of each accumulator's unit.
  std::uint32_t a_low, a_high;     ///< |bits| of a admitted: [a_low, a_high).
  std::uint32_t b_low, b_high;     ///< Likewise of b.
};
/// The window for blocks of at most n > 0 elements whose largest exponents are those given, in [-126, 127].
/// It reaches down 27 - l octaves, l = log2 of the additions an accumulator sees: with p = 24 bits a number,
/// the sums are exact for span <= 51 - p - l, and the products for span_a + span_b <= 102 - 2p - 2l.
Window make_window(int max_exponent_a, int max_exponent_b, std::size_t n);
/// All finite float16 values fit one window, for blocks of at most kBlock.
Window half_window();

struct BlockSum {
  std::int64_t sum, high, low;  ///< Σa, and Σa·b = high + low, in the window's units.
  /// Plain pass: largest |bits|, and smallest nonzero |bits| (2^32 - 1 and 0 where all are zero: min is kept
  /// minus one). Masked pass: max is the largest |bits| below the window, min is not set.
  std::uint32_t a_max, a_min_minus_one, b_max, b_min_minus_one;
};

/// Every element counts. Exact if all nonzero elements lie in the window, which the caller reads off max and
/// min.
BlockSum sum_block(const float* a, const float* b, std::size_t n, const Window& window);
/// Elements outside the window count as zero. Always exact.
BlockSum sum_block_masked(const float* a, const float* b, std::size_t n, const Window& window);

}  // namespace syncbn::kernels
