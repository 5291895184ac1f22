// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "base/host_device.h"
#include "syncbn/dtype.h"

/// Between storage types and the compute type: widening is exact, narrowing rounds once, to nearest even.
/// (Highway 1.0.3 truncates to bfloat16 on every target, and to float16 on some.)
namespace syncbn::kernels {

/// float for 16- and 32-bit storage, double for float64.
template <class Storage>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class Storage>
using Compute = typename ComputeType<Storage>::type;

SYNCBN_DEVICE inline float widen(float value) { return value; }
SYNCBN_DEVICE inline double widen(double value) { return value; }
SYNCBN_DEVICE inline float widen(bfloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}
SYNCBN_DEVICE inline float widen(float16 value) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fff) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000) << 16;
  // Scaling by 2^112 rebiases the exponent and makes subnormals normal, exactly.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = (value.bits & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

template <class Storage>
Storage narrow(Compute<Storage> value) {
  return Storage(value);
}
template <>
inline bfloat16 narrow<bfloat16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return bfloat16::from_bits(static_cast<std::uint16_t>(bits >> 16 | 0x40));
  return bfloat16::from_bits(static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16));
}
template <>
inline float16 narrow<float16>(float value) {
  return float16(static_cast<double>(value));
}

/// The mask of ReLU: whether the gradient passes if the output is y.
template <class T>
SYNCBN_DEVICE bool passes(T y) {
  return y > 0 || y != y;
}

/// A table of functions for each storage type.
template <template <class> class Table>
struct PerStorage {
  Table<float16> half;
  Table<bfloat16> brain;
  Table<float> single;
  Table<double> wide;

  template <class Storage>
  const Table<Storage>& of() const {
    if constexpr (std::is_same_v<Storage, float16>) return half;
    if constexpr (std::is_same_v<Storage, bfloat16>) return brain;
    if constexpr (std::is_same_v<Storage, float>) return single;
    if constexpr (std::is_same_v<Storage, double>) return wide;
  }
};

/// Calls body with a null pointer of the storage type that `dtype` names. The one place that tells dtypes
/// apart.
template <class Body>
decltype(auto) with_storage(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::float16:
      return body(static_cast<float16*>(nullptr));
    case DType::bfloat16:
      return body(static_cast<bfloat16*>(nullptr));
    case DType::float32:
      return body(static_cast<float*>(nullptr));
    default:
      return body(static_cast<double*>(nullptr));
  }
}

}  // namespace syncbn::kernels
