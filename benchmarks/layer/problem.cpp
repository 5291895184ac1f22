// SPDX-License-Identifier: Apache-2.0
#include "problem.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/convert.h"

namespace bench {
namespace {

constexpr std::size_t kPage = 4096;
// Values drawn; larger tensors repeat them. A prime, so that no channel repeats another.
constexpr std::size_t kDrawn = 1000003;

double draw(Data data, std::mt19937_64& random) {
  const double normal = std::normal_distribution<double>{}(random);
  switch (data) {
    case Data::normal:
      return normal;
    case Data::lognormal:
      return std::exp(3 * normal);
    case Data::cauchy:
      return std::cauchy_distribution<double>{}(random);
    case Data::spread:
      break;
  }
  return normal * std::exp2(std::uniform_real_distribution<double>{-20, 20}(random));
}

}  // namespace

const std::vector<std::vector<std::int64_t>>& large_shapes() {
  static const std::vector<std::vector<std::int64_t>> shapes{
      {32, 64, 112, 112}, {32, 256, 56, 56}, {32, 512, 28, 28}, {32, 1024, 14, 14}};
  return shapes;
}

const std::vector<std::vector<std::int64_t>>& small_shapes() {
  static const std::vector<std::vector<std::int64_t>> shapes{
      {32, 2048, 7, 7}, {4, 64, 56, 56}, {8, 32, 32, 32}, {4, 512, 7, 7},
      {256, 1024},      {64, 128},       {2, 2, 2, 2}};
  return shapes;
}

Buffer::Buffer(std::size_t bytes)
    : memory_(std::aligned_alloc(kPage, (std::max<std::size_t>(bytes, 1) + kPage - 1) / kPage * kPage)) {
  std::memset(memory_.get(), 0, bytes);
}

Buffer::Buffer(const Problem& problem, std::uint64_t seed) : Buffer(problem.bytes()) {
  std::mt19937_64 random(seed);
  const std::size_t n = problem.elements();
  syncbn::kernels::with_storage(problem.dtype, [&](auto* null) {
    using T = std::remove_pointer_t<decltype(null)>;
    T* values = static_cast<T*>(data());
    for (std::size_t i = 0; i < n; ++i) {
      if (i >= kDrawn) {
        values[i] = values[i - kDrawn];
      } else {
        values[i] =
            syncbn::kernels::narrow<T>(static_cast<syncbn::kernels::Compute<T>>(draw(problem.data, random)));
      }
    }
  });
}

Tensors::Tensors(const Problem& of) : problem(of), x(of, 1), dy(of, 2), y(of.bytes()), dx(of.bytes()) {}

std::string name_of(const std::vector<std::int64_t>& dims) {
  return fmt::format("({})", fmt::join(dims, ","));
}

std::string_view name_of(Data data) {
  constexpr std::array<std::string_view, 4> names{"normal", "lognormal", "cauchy", "spread"};
  return names[static_cast<std::size_t>(data)];
}

}  // namespace bench
