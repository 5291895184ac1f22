// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "syncbn/tensor.h"

/// Memory that Python owns is passed by its address, an integer; 0 means none. The caller keeps the memory
/// alive and in its place during a call.
namespace syncbn::python {

inline void* at(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

inline Shape shape_of(const nanobind::tuple& sizes) {
  std::vector<std::int64_t> dims(sizes.size());
  for (std::size_t i = 0; i < dims.size(); ++i) dims[i] = nanobind::cast<std::int64_t>(sizes[i]);
  return Shape(std::span<const std::int64_t>(dims));
}

/// Shape, dtype and layout, which all tensors of a call share. Makes views of addresses.
struct TensorForm {
  Shape shape;
  DType dtype;
  Layout layout;

  TensorView operator()(std::uintptr_t address) const { return {at(address), dtype, shape, layout}; }
  std::optional<TensorView> optional(std::uintptr_t address) const {
    if (address == 0) return std::nullopt;
    return (*this)(address);
  }
};

}  // namespace syncbn::python
