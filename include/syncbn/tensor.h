// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "syncbn/dtype.h"
#include "syncbn/export.h"

namespace syncbn {

/// Memory order of a dense tensor. The shape reads (N, C, spatial...) in both.
enum class Layout : std::uint8_t {
  channels_first,  ///< N, C, spatial...: the spatial elements of one channel are contiguous (NCHW).
  channels_last,   ///< N, spatial..., C: the channels of one position are contiguous (NHWC).
};

/// The device whose memory holds a tensor.
struct Device {
  enum class Type : std::uint8_t {
    cpu,   ///< The host.
    cuda,  ///< A GPU of NVIDIA; needs libsyncbn_cuda.so (docs/cuda.md).
  };
  Type type = Type::cpu;
  std::uint8_t index = 0;  ///< Index of the device among the devices of the same type.

  friend bool operator==(const Device&, const Device&) = default;
};

/// Shape (N, C, spatial...) of a batch: at least two dimensions, N >= 0, C >= 1, spatial sizes >= 0. The
/// product of all sizes is at most 2^48. A shape of more than kInlineDims dimensions allocates memory.
class SYNCBN_API Shape {
 public:
  static constexpr std::size_t kInlineDims = 8;

  /// Makes a shape from sizes written in place: Shape{8, 64, 14, 14}. @throws InvalidArgument as Shape(span)
  Shape(std::initializer_list<std::int64_t> dims);
  /// Makes a shape from a list of sizes.
  /// @throws InvalidArgument fewer than two dimensions, a negative size, C = 0, or more than 2^48 elements
  explicit Shape(std::span<const std::int64_t> dims);

  std::int64_t samples() const { return inline_[0]; }   ///< N
  std::int64_t channels() const { return inline_[1]; }  ///< C
  std::int64_t spatial() const { return spatial_; }  ///< Product of the spatial sizes; 1 if there are none.
  std::int64_t elements() const { return samples() * channels() * spatial_; }  ///< Product of all sizes.
  std::span<const std::int64_t> dims() const {                                 ///< All sizes.
    return longer_.empty() ? std::span(inline_).first(count_) : std::span(longer_);
  }
  std::string to_string() const;  ///< "(2, 3, 4, 4)"

  /// True if both have the same sizes.
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.inline_ == b.inline_ && a.count_ == b.count_ && a.longer_ == b.longer_;
  }

 private:
  std::array<std::int64_t, kInlineDims> inline_{};  // the first sizes, then zeros
  std::size_t count_;
  std::int64_t spatial_ = 1;
  std::vector<std::int64_t> longer_;  // all sizes, if they are more than kInlineDims
};

/// Non-owning, readable view of a dense tensor. `data` is aligned to the element size, and may be null only
/// if the tensor has no elements.
struct ConstTensorView {
  const void* data;
  DType dtype;
  Shape shape;
  Layout layout = Layout::channels_first;
  Device device = {};
};

/// Non-owning, writable view of a dense tensor. `data` as in ConstTensorView.
struct TensorView {
  void* data;
  DType dtype;
  Shape shape;
  Layout layout = Layout::channels_first;
  Device device = {};

  // NOLINTNEXTLINE(google-explicit-constructor): what may be written may be read
  operator ConstTensorView() const { return {data, dtype, shape, layout, device}; }
};

namespace detail {
/// @throws InvalidArgument `size` is not the number of elements of `shape`
SYNCBN_API void check_size(std::size_t size, const Shape& shape);
}  // namespace detail

/// Makes a view of elements in the host's memory. The element type gives the dtype: float16, bfloat16, float
/// or double.
/// @throws InvalidArgument data.size() is not the shape's number of elements
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
