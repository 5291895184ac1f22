// SPDX-License-Identifier: Apache-2.0
#include "syncbn/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "syncbn/error.h"

namespace syncbn {
namespace {

// Counts over all ranks stay below 2^53, where they are exact in double.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) : count_(dims.size()) {
  if (count_ > kInlineDims) longer_.assign(dims.begin(), dims.end());
  std::copy_n(dims.begin(), std::min(count_, kInlineDims), inline_.begin());
  if (count_ < 2) {
    throw InvalidArgument(
        fmt::format("shape: {}, expected at least two dimensions (N, C, spatial...)", to_string()));
  }
  if (std::ranges::any_of(dims, [](std::int64_t size) { return size < 0; }))
    throw InvalidArgument(fmt::format("shape: {}, expected sizes >= 0", to_string()));
  if (channels() == 0) throw InvalidArgument(fmt::format("shape: {}, expected C >= 1", to_string()));
  // Zero sizes make the product zero whatever the others are; the others must be sane all the same.
  std::int64_t elements = 1;
  for (const std::int64_t size : dims) {
    if (size != 0 && __builtin_mul_overflow(elements, size, &elements)) elements = kMaxElements + 1;
    if (elements > kMaxElements) {
      throw InvalidArgument(fmt::format("shape: {}, expected at most 2^48 elements", to_string()));
    }
  }
  for (const std::int64_t size : dims.subspan(2)) spatial_ *= size;
}

std::string Shape::to_string() const { return fmt::format("({})", fmt::join(dims(), ", ")); }

void detail::check_size(std::size_t size, const Shape& shape) {
  if (size != static_cast<std::size_t>(shape.elements())) {
    throw InvalidArgument(fmt::format("data: {} elements, expected {} for shape {}", size, shape.elements(),
                                      shape.to_string()));
  }
}

}  // namespace syncbn
