// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmpxx.h>

#include <cstdint>

/// Numbers of the test oracle: exact dyadic rationals by GMP, and one correct rounding from them to a binary
/// format. Nothing here comes from the library under test.
namespace oracle {

/// A binary interchange format, by the facts that rounding and encoding need.
enum class Type { float16, bfloat16, float32, float64 };
inline constexpr Type kTypes[] = {Type::float16, Type::bfloat16, Type::float32, Type::float64};
const char* name_of(Type type);
int bits_of(Type type);  ///< 16, 16, 32 or 64.

/// significand · 2^exponent, any integer, any exponent.
struct Dyadic {
  mpz_class significand;
  long exponent = 0;
};
/// The exact value of a finite double.
Dyadic dyadic(double value);
Dyadic operator+(const Dyadic& a, const Dyadic& b);
Dyadic operator-(const Dyadic& a, const Dyadic& b);
Dyadic operator*(const Dyadic& a, const Dyadic& b);

/// Rounded once, to nearest even. Zero gives +0; what is too small gives the zero of its sign, what is too
/// large the infinity.
double round_to(Type type, const Dyadic& value);
/// The same from a double; NaN, infinities and zeros stay.
double round_to(Type type, double value);
/// a·b + c, rounded once to `type` (float32 or float64), with IEEE 754's special values and signed zeros.
double fused_multiply_add(Type type, double a, double b, double c);

/// The bit pattern of a value that `type` has; the quiet positive NaN for any NaN.
std::uint64_t encode(Type type, double value);
double decode(Type type, std::uint64_t bits);

}  // namespace oracle
