#include "kernels/sum_doubles.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "exact/exact_sum.h"
#include "kernels/convert.h"

namespace syncbn::kernels {
namespace {

using int128 = __int128;

constexpr int kExponents = 2047;  // of finite doubles, 0 to 2046

// value = significand · 2^(exponent - 1075). A subnormal's exponent is 1, as its bits mean; a zero may have
// any.
struct Parts {
  std::int64_t significand;
  int exponent;
};
int exponent_bits(double value) {
  return static_cast<int>(std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff);
}
Parts parts_of(double value, int lowest) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int exponent = exponent_bits(value);
  const auto magnitude = static_cast<std::int64_t>((bits & ((std::uint64_t{1} << 52) - 1)) |
                                                   static_cast<std::uint64_t>(exponent != 0) << 52);
  const auto sign = static_cast<std::int64_t>(bits) >> 63;  // 0 or -1
  return {(magnitude ^ sign) - sign, std::max(exponent, lowest)};
}

// The exponents of a block's nonzero elements.
struct Span {
  int lowest = kExponents, highest = 1;
  void see(double value) {
    if (value == 0) return;
    const int exponent = std::max(exponent_bits(value), 1);
    lowest = std::min(lowest, exponent);
    highest = std::max(highest, exponent);
  }
};

// Terms that are not finite are flagged, and count as zero.
void set_aside_specials(double* a, double* b, std::size_t n, std::int64_t* record) {
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  for (std::size_t i = 0; i < n; ++i) {
    const bool a_finite = std::isfinite(a[i]), b_finite = std::isfinite(b[i]);
    if (!a_finite) record[format.sum_flags()] |= exact::flag_of(a[i]);
    if (!a_finite || !b_finite) record[format.product_flags()] |= exact::flag_of(a[i] * b[i]);
    if (!a_finite) a[i] = 0;
    if (!b_finite) b[i] = 0;
  }
}

void add_wide(std::int64_t* digits, int128 value, int shift) {
  constexpr int128 half = int128{1} << 62;
  exact::add_scaled(digits, static_cast<std::int64_t>(value % half), shift);
  exact::add_scaled(digits, static_cast<std::int64_t>(value / half), shift + 62);
}

}  // namespace

// Significands of one exponent are integers of one unit, and their products those of one sum of exponents:
// each is added to a bucket of its own (after Neal's large superaccumulator), and only full blocks of them to
// the digits. 1,024 significands of 53 bits fit 64 bits, and as many products of 106 bits fit 128.
void sum_doubles(const Rows<double>& terms, std::int64_t* record) {
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  const std::size_t n = terms.rows * terms.n;
  double a[kMaxDoubles], b[kMaxDoubles];
  bool finite = true;
  for (std::size_t row = 0, i = 0; row < terms.rows; ++row) {
    for (std::size_t j = row * terms.stride; j < row * terms.stride + terms.n; ++j, ++i) {
      a[i] = terms.mask == nullptr || passes(terms.mask[j]) ? terms.a[j] : 0.0;
      b[i] = terms.b[j];
      finite = finite && std::isfinite(a[i]) && std::isfinite(b[i]);
    }
  }
  if (!finite) set_aside_specials(a, b, n, record);
  Span a_span, b_span;
  for (std::size_t i = 0; i < n; ++i) {
    a_span.see(a[i]);
    b_span.see(b[i]);
  }
  if (a_span.lowest > a_span.highest) return;  // all zero

  std::int64_t sums[kExponents];
  int128 products[2 * kExponents];
  const int lowest = a_span.lowest + std::min(b_span.lowest, b_span.highest);
  const int highest = a_span.highest + b_span.highest;
  std::fill_n(sums, a_span.highest - a_span.lowest + 1, 0);
  std::fill_n(products, highest - lowest + 1, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const Parts x = parts_of(a[i], a_span.lowest);
    const Parts y = parts_of(b[i], lowest - a_span.lowest);
    sums[x.exponent - a_span.lowest] += x.significand;
    products[x.exponent + y.exponent - lowest] += int128{x.significand} * y.significand;
  }
  for (int e = a_span.lowest; e <= a_span.highest; ++e) {
    exact::add_scaled(record, sums[e - a_span.lowest], e - 1);
  }
  for (int e = lowest; e <= highest; ++e) {
    add_wide(record + format.sum_digits, products[e - lowest], e - 2);
  }
  exact::normalise(record, format);
}

}  // namespace syncbn::kernels
