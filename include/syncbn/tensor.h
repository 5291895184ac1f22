#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/dtype.h"

namespace syncbn {

/// Memory order of a dense tensor. The shape reads (N, C, spatial...) in both.
enum class Layout : std::uint8_t {
  channels_first,  ///< N, C, spatial...: the spatial elements of one channel are contiguous (NCHW).
  channels_last,   ///< N, spatial..., C: the channels of one position are contiguous (NHWC).
};

/// Shape (N, C, spatial...) of a batch: at least two dimensions, N >= 0, C >= 1, spatial sizes >= 0, and a
/// product of all sizes that is at most 2^48.
class Shape {
 public:
  Shape(std::initializer_list<std::int64_t> dims);  ///< @throws InvalidArgument as the next.
  /// @throws InvalidArgument fewer than two dimensions, a negative size, C = 0, or too many elements.
  explicit Shape(std::span<const std::int64_t> dims);

  std::int64_t samples() const { return dims_[0]; }   ///< N
  std::int64_t channels() const { return dims_[1]; }  ///< C
  std::int64_t spatial() const {
    return spatial_;
  }  ///< Product of the spatial sizes, 1 where there are none.
  std::int64_t elements() const { return samples() * channels() * spatial_; }
  std::span<const std::int64_t> dims() const { return dims_; }
  std::string to_string() const;  ///< "(2, 3, 4, 4)"

  friend bool operator==(const Shape& a, const Shape& b) { return a.dims_ == b.dims_; }

 private:
  std::vector<std::int64_t> dims_;
  std::int64_t spatial_ = 1;
};

/// Non-owning view of a dense tensor that may be read. `data` may be null only where there are no elements,
/// and is aligned to the element size.
struct ConstTensorView {
  const void* data;
  DType dtype;
  Shape shape;
  Layout layout = Layout::channels_first;
};

/// Non-owning view of a dense tensor that may be written.
struct TensorView {
  void* data;
  DType dtype;
  Shape shape;
  Layout layout = Layout::channels_first;

  // NOLINTNEXTLINE(google-explicit-constructor): what may be written may be read
  operator ConstTensorView() const { return {data, dtype, shape, layout}; }
};

namespace detail {
void check_size(std::size_t size, const Shape& shape);  ///< @throws InvalidArgument where they differ.
}

/// The typed way to a view: the element type names the dtype. @throws InvalidArgument data.size() is not the
/// shape's.
template <class T>
TensorView view(std::span<T> data, Shape shape, Layout layout = Layout::channels_first) {
  detail::check_size(data.size(), shape);
  return {data.data(), dtype_of<T>, std::move(shape), layout};
}
template <class T>
ConstTensorView view(std::span<const T> data, Shape shape, Layout layout = Layout::channels_first) {
  detail::check_size(data.size(), shape);
  return {data.data(), dtype_of<T>, std::move(shape), layout};
}
template <class T>
TensorView view(std::vector<T>& data, Shape shape, Layout layout = Layout::channels_first) {
  return view(std::span<T>(data), std::move(shape), layout);
}
template <class T>
ConstTensorView view(const std::vector<T>& data, Shape shape, Layout layout = Layout::channels_first) {
  return view(std::span<const T>(data), std::move(shape), layout);
}

}  // namespace syncbn
