// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <iterator>
#include <string>

#include "syncbn/dtype.h"

namespace syncbn::base {

/// All element types, in the order of the enumerators.
inline constexpr DType kDTypes[] = {DType::float16, DType::bfloat16, DType::float32, DType::float64};

inline bool is_dtype(DType dtype) {
  return std::find(std::begin(kDTypes), std::end(kDTypes), dtype) != std::end(kDTypes);
}

/// For messages: "float16, bfloat16, float32 or float64".
inline std::string dtype_names() {
  std::string text;
  for (std::size_t i = 0; i < std::size(kDTypes); ++i) {
    if (i > 0) text += i + 1 < std::size(kDTypes) ? ", " : " or ";
    text += name_of(kDTypes[i]);
  }
  return text;
}

}  // namespace syncbn::base
