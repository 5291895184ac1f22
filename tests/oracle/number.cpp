// SPDX-License-Identifier: Apache-2.0
#include "oracle/number.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace oracle {
namespace {

struct Format {
  const char* name;
  int bits;
  int precision;     // significand bits, the implicit one included
  int max_exponent;  // of the largest finite value, as 1.f · 2^max
  long quantum() const { return 2 - max_exponent - precision; }  // exponent of the smallest subnormal
};

const Format& format(Type type) {
  static constexpr Format formats[] = {
      {"float16", 16, 11, 15}, {"bfloat16", 16, 8, 127}, {"float32", 32, 24, 127}, {"float64", 64, 53, 1023}};
  return formats[static_cast<int>(type)];
}

mpz_class times_power(const mpz_class& value, long exponent) {
  return value << static_cast<mp_bitcnt_t>(exponent);
}

long length(const mpz_class& value) { return static_cast<long>(mpz_sizeinbase(value.get_mpz_t(), 2)); }

}  // namespace

const char* name_of(Type type) { return format(type).name; }
int bits_of(Type type) { return format(type).bits; }

Dyadic dyadic(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const long biased = static_cast<long>(bits >> 52 & 2047);
  std::uint64_t significand = bits & 0xFFFFFFFFFFFFFu;
  if (biased != 0) significand += 0x10000000000000u;
  Dyadic result{mpz_class(static_cast<unsigned long>(significand)), std::max(biased, 1L) - 1075};
  if (std::signbit(value)) result.significand = -result.significand;
  return result;
}

Dyadic operator+(const Dyadic& a, const Dyadic& b) {
  const long exponent = std::min(a.exponent, b.exponent);
  return {
      times_power(a.significand, a.exponent - exponent) + times_power(b.significand, b.exponent - exponent),
      exponent};
}
Dyadic operator-(const Dyadic& a, const Dyadic& b) { return a + Dyadic{-b.significand, b.exponent}; }
Dyadic operator*(const Dyadic& a, const Dyadic& b) {
  return {a.significand * b.significand, a.exponent + b.exponent};
}

double round_to(Type type, const Dyadic& value) {
  if (value.significand == 0) return 0.0;
  const Format& f = format(type);
  mpz_class magnitude = abs(value.significand);
  // The result is a whole number of 2^last.
  const long last = std::max(value.exponent + length(magnitude) - f.precision, f.quantum());
  if (last > value.exponent) {
    const mpz_class unit = times_power(1, last - value.exponent);
    mpz_class quotient, rest;
    mpz_fdiv_qr(quotient.get_mpz_t(), rest.get_mpz_t(), magnitude.get_mpz_t(), unit.get_mpz_t());
    const mpz_class twice = 2 * rest;
    if (twice > unit || (twice == unit && mpz_odd_p(quotient.get_mpz_t()))) ++quotient;
    magnitude = quotient;
  }
  const long scale = std::max(last, value.exponent);
  double result = 0.0;
  if (magnitude != 0) {
    const bool overflow = scale + length(magnitude) - 1 > f.max_exponent;
    // At most 53 bits and in double's range: both steps are exact.
    result = overflow ? std::numeric_limits<double>::infinity()
                      : std::ldexp(magnitude.get_d(), static_cast<int>(scale));
  }
  return value.significand < 0 ? -result : result;
}

double round_to(Type type, double value) {
  if (!std::isfinite(value) || value == 0 || type == Type::float64) return value;
  return round_to(type, dyadic(value));
}

double fused_multiply_add(Type type, double a, double b, double c) {
  if (!std::isfinite(a) || !std::isfinite(b)) return a * b + c;
  if (!std::isfinite(c)) return c;
  const Dyadic sum = dyadic(a) * dyadic(b) + dyadic(c);
  if (sum.significand != 0) return round_to(type, sum);
  // An exact zero: negative only where both parts are.
  const bool negative_product = std::signbit(a) != std::signbit(b);
  return negative_product && std::signbit(c) ? -0.0 : 0.0;
}

std::uint64_t encode(Type type, double value) {
  const Format& f = format(type);
  const int fraction_bits = f.precision - 1;
  const std::uint64_t infinity = static_cast<std::uint64_t>(2 * f.max_exponent + 1) << fraction_bits;
  if (std::isnan(value)) return infinity | std::uint64_t{1} << (fraction_bits - 1);
  const std::uint64_t sign = std::signbit(value) ? std::uint64_t{1} << (f.bits - 1) : 0;
  if (std::isinf(value)) return sign | infinity;
  if (value == 0) return sign;
  // Counted in quanta the magnitudes of one binade are 2^(precision-1) apart from the next binade's.
  const int exponent = std::max(std::ilogb(value), 1 - f.max_exponent);
  const auto significand = static_cast<std::uint64_t>(std::ldexp(std::fabs(value), fraction_bits - exponent));
  const auto binade = static_cast<std::uint64_t>(exponent + f.max_exponent - 1);
  return sign | ((binade << fraction_bits) + significand);
}

double decode(Type type, std::uint64_t bits) {
  const Format& f = format(type);
  const int fraction_bits = f.precision - 1;
  const std::uint64_t magnitude = bits & ((std::uint64_t{1} << (f.bits - 1)) - 1);
  const std::uint64_t infinity = static_cast<std::uint64_t>(2 * f.max_exponent + 1) << fraction_bits;
  double value = std::numeric_limits<double>::quiet_NaN();
  if (magnitude < infinity) {
    const std::uint64_t fraction = magnitude & ((std::uint64_t{1} << fraction_bits) - 1);
    const int biased = static_cast<int>(magnitude >> fraction_bits);
    const std::uint64_t significand = biased == 0 ? fraction : fraction | std::uint64_t{1} << fraction_bits;
    value =
        std::ldexp(static_cast<double>(significand), std::max(biased, 1) - f.max_exponent - fraction_bits);
  } else if (magnitude == infinity) {
    value = std::numeric_limits<double>::infinity();
  }
  return bits >> (f.bits - 1) != 0 ? -value : value;
}

}  // namespace oracle
