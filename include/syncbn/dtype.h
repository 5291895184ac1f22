// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "syncbn/export.h"

namespace syncbn {

/// Element types of tensors and parameters.
enum class DType : std::uint8_t {
  float16,   ///< IEEE 754 binary16.
  bfloat16,  ///< The upper half of an IEEE 754 binary32.
  float32,   ///< IEEE 754 binary32.
  float64,   ///< IEEE 754 binary64.
};

/// A number in IEEE 754 binary16, as its 16 bits.
struct SYNCBN_API float16 {
  std::uint16_t bits = 0;

  float16() = default;
  explicit float16(double value);    ///< Rounds once, to nearest even.
  explicit operator double() const;  ///< Exact.
  /// Makes a value from its 16 bits.
  static float16 from_bits(std::uint16_t bits) {
    float16 h;
    h.bits = bits;
    return h;
  }
};

/// A number in bfloat16, as its 16 bits.
struct SYNCBN_API bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(double value);   ///< Rounds once, to nearest even.
  explicit operator double() const;  ///< Exact.
  /// Makes a value from its 16 bits.
  static bfloat16 from_bits(std::uint16_t bits) {
    bfloat16 h;
    h.bits = bits;
    return h;
  }
};

/// Size of one element in bytes: 2, 4 or 8.
constexpr std::size_t size_of(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

/// Name of the element type: "float16", "bfloat16", "float32" or "float64".
SYNCBN_API const char* name_of(DType dtype);

/// The DType of a C++ element type: dtype_of<float> == DType::float32. @hideinitializer
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "element types are syncbn::float16, syncbn::bfloat16, float and double");
  return DType::float32;
}();
template <>
inline constexpr DType dtype_of<float16> = DType::float16;
template <>
inline constexpr DType dtype_of<bfloat16> = DType::bfloat16;
template <>
inline constexpr DType dtype_of<float> = DType::float32;
template <>
inline constexpr DType dtype_of<double> = DType::float64;

}  // namespace syncbn
