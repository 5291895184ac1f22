#pragma once

#include <cstddef>
#include <cstdint>

namespace syncbn {

/// Element types of tensors and parameters.
enum class DType : std::uint8_t {
  float16,   ///< IEEE 754 binary16.
  bfloat16,  ///< The upper half of a binary32.
  float32,   ///< IEEE 754 binary32.
  float64,   ///< IEEE 754 binary64.
};

/// 16-bit storage of an IEEE 754 binary16; conversions round once, to nearest even.
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  explicit float16(double value);
  explicit operator double() const;
  static float16 from_bits(std::uint16_t bits) {
    float16 h;
    h.bits = bits;
    return h;
  }
};

/// 16-bit storage of a bfloat16; conversions round once, to nearest even.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(double value);
  explicit operator double() const;
  static bfloat16 from_bits(std::uint16_t bits) {
    bfloat16 h;
    h.bits = bits;
    return h;
  }
};

/// Bytes of one element: 2, 2, 4 or 8.
constexpr std::size_t size_of(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

/// "float16", "bfloat16", "float32" or "float64".
const char* name_of(DType dtype);

/// The DType of a C++ element type: dtype_of<float> == DType::float32.
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
