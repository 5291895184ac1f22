// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/convert.h"
#include "syncbn/dtype.h"

namespace syncbn::kernels {

/// View of one value per channel in the layer's dtype: a parameter, a buffer or a gradient. Absent if `data`
/// is null. Values are read as double, which is exact, and written with one rounding. Only kernels may touch
/// the elements.
struct Values {
  void* data = nullptr;
  DType dtype = DType::float32;

  explicit operator bool() const { return data != nullptr; }
  double operator[](std::int64_t channel) const {
    return with_storage(
        dtype, [&](auto* null) { return static_cast<double>(static_cast<decltype(null)>(data)[channel]); });
  }
  void set(std::int64_t channel, double value) const {
    with_storage(dtype, [&](auto* null) {
      using Storage = std::remove_pointer_t<decltype(null)>;
      static_cast<Storage*>(data)[channel] = static_cast<Storage>(value);
    });
  }
};

}  // namespace syncbn::kernels
