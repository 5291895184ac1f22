#include "syncbn/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "syncbn/error.h"

namespace syncbn {
namespace {

// Counts over all ranks stay below 2^53, where they are exact in double.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) : dims_(dims.begin(), dims.end()) {
  if (dims_.size() < 2) {
    throw InvalidArgument(
        fmt::format("shape: {}, expected at least two dimensions (N, C, spatial...)", to_string()));
  }
  bool empty = false;
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < dims_.size(); ++i) {
    if (dims_[i] < 0) throw InvalidArgument(fmt::format("shape: {}, expected sizes >= 0", to_string()));
    empty = empty || dims_[i] == 0;
  }
  if (dims_[1] == 0) throw InvalidArgument(fmt::format("shape: {}, expected C >= 1", to_string()));
  // Zero sizes make the product zero whatever the others are; the others must be sane all the same.
  for (const std::int64_t size : dims_) {
    if (size != 0 && __builtin_mul_overflow(elements, size, &elements)) elements = kMaxElements + 1;
    if (elements > kMaxElements) {
      throw InvalidArgument(fmt::format("shape: {}, expected at most 2^48 elements", to_string()));
    }
  }
  for (std::size_t i = 2; i < dims_.size(); ++i) spatial_ *= dims_[i];
}

std::string Shape::to_string() const { return fmt::format("({})", fmt::join(dims_, ", ")); }

void detail::check_size(std::size_t size, const Shape& shape) {
  if (size != static_cast<std::size_t>(shape.elements())) {
    throw InvalidArgument(fmt::format("data: {} elements, expected {} for shape {}", size, shape.elements(),
                                      shape.to_string()));
  }
}

}  // namespace syncbn
