// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "syncbn/tensor.h"

namespace bench {

/// Distribution of a problem's numbers.
enum class Data {
  normal,
  lognormal,  ///< exp(3·normal)
  cauchy,
  spread,  ///< normal · 2^uniform(-20, 20)
};

/// One batch and what a layer does with it.
struct Problem {
  std::vector<std::int64_t> dims;  ///< (N, C, spatial...)
  syncbn::Layout layout = syncbn::Layout::channels_first;
  syncbn::DType dtype = syncbn::DType::float32;
  Data data = Data::normal;

  syncbn::Shape shape() const { return syncbn::Shape(dims); }
  std::size_t elements() const { return static_cast<std::size_t>(shape().elements()); }
  std::size_t bytes() const { return elements() * syncbn::size_of(dtype); }  ///< Size of one tensor.
  bool channels_last() const { return layout == syncbn::Layout::channels_last; }
};

/// Shapes of the tables: activations of ResNet-50 with a batch of 32, and small or odd ones.
const std::vector<std::vector<std::int64_t>>& large_shapes();
const std::vector<std::vector<std::int64_t>>& small_shapes();

/// Memory of one tensor, every page touched.
class Buffer {
 public:
  Buffer(const Problem& problem, std::uint64_t seed);  ///< The problem's data, seeded.
  explicit Buffer(std::size_t bytes);                  ///< Zeros.
  void* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
};

/// Memory that a forward and a backward read and write. All contenders share it, so none has better pages.
struct Tensors {
  explicit Tensors(const Problem& of);
  syncbn::TensorView view(const Buffer& buffer) const {
    return {buffer.data(), problem.dtype, problem.shape(), problem.layout};
  }
  Problem problem;
  Buffer x, dy, y, dx;
};

std::string name_of(const std::vector<std::int64_t>& dims);  ///< "(32,64,112,112)"
std::string_view name_of(Data data);

}  // namespace bench
