// SPDX-License-Identifier: Apache-2.0
#include "kernels/sum_doubles.h"

#include <algorithm>
#include <cmath>

#include "exact/parts.h"
#include "kernels/convert.h"

namespace syncbn::kernels {
namespace {

using int128 = __int128;

constexpr int kExponents = 2047;  // of finite doubles, 0 to 2046

// Takes a value apart with its biased exponent, 1 for subnormals. A zero may have any exponent: it gets
// `lowest`.
exact::Parts biased_parts_of(double value, int lowest) {
  const exact::Parts parts = exact::parts_of(value);
  return {parts.significand, std::max(parts.exponent + 1075, lowest)};
}

// The exponents of a block's nonzero elements.
struct Span {
  int lowest = kExponents, highest = 1;
  void see(double value) {
    if (value == 0) return;
    const int exponent = std::max(exact::biased_exponent(value), 1);
    lowest = std::min(lowest, exponent);
    highest = std::max(highest, exponent);
  }
};

// Flags the terms that are not finite and makes them zero.
void set_aside_specials(double* a, double* b, std::size_t n, exact::Record record) {
  for (std::size_t i = 0; i < n; ++i) {
    const bool a_finite = std::isfinite(a[i]), b_finite = std::isfinite(b[i]);
    if (!a_finite) record.flag_sum(a[i]);
    if (!a_finite || !b_finite) record.flag_product(a[i] * b[i]);
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

// Significands of one exponent are integers in one unit, and so are products of one sum of exponents. Each is
// added to the bucket of its exponent (after Neal's large superaccumulator); only full blocks are added to
// the digits. 1,024 significands of 53 bits fit 64 bits, and as many products of 106 bits fit 128.
void sum_doubles(const Rows<double>& terms, exact::Record record) {
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
    const exact::Parts x = biased_parts_of(a[i], a_span.lowest);
    const exact::Parts y = biased_parts_of(b[i], lowest - a_span.lowest);
    sums[x.exponent - a_span.lowest] += x.significand;
    products[x.exponent + y.exponent - lowest] += int128{x.significand} * y.significand;
  }
  for (int e = a_span.lowest; e <= a_span.highest; ++e) {
    exact::add_scaled(record.sum(), sums[e - a_span.lowest], e - 1);
  }
  for (int e = lowest; e <= highest; ++e) {
    add_wide(record.product(), products[e - lowest], e - 2);
  }
  record.propagate_carries();
}

}  // namespace syncbn::kernels
