// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/fp_environment.h"
#include "exact/value_row.h"
#include "layer/row_sums.h"
#include "syncbn/dtype.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "world/resolve_group.h"

namespace syncbn {
namespace {

template <class T>
void check(std::span<T> values) {
  constexpr std::size_t kMaxValues = std::size_t{1} << 48;  // as of a Shape
  if (values.size() > kMaxValues)
    throw InvalidArgument(fmt::format("values: {} of them, expected at most 2^48", values.size()));
  if (values.data() == nullptr && !values.empty())
    throw InvalidArgument(fmt::format("values: null data, expected {} of them", values.size()));
  if (reinterpret_cast<std::uintptr_t>(values.data()) % sizeof(T) != 0) {
    throw InvalidArgument(fmt::format("values: data at {}, expected an address aligned to {} bytes ({})",
                                      static_cast<const void*>(values.data()), sizeof(T),
                                      name_of(dtype_of<T>)));
  }
}

template <class T>
void sum(std::span<T> values, std::string_view name) {
  const base::FpEnvironment environment;
  const auto group = world::resolve_group(name);
  const exact::SumFormat& format = exact::sum_format(dtype_of<T>);
  const int words = exact::value_row_words(format);
  std::vector<T> sums;
  layer::sum_rows(
      *group, {"all_reduce_sum", fmt::format("values={}, type={}", values.size(), name_of(dtype_of<T>))},
      values.size(), words,
      [&] {
        check(values);
        sums.reserve(values.size());
      },
      [&](std::size_t first, std::size_t count, std::span<std::int64_t> message) {
        std::int64_t* row = message.data();
        for (std::size_t i = first; i < first + count; ++i, row += words)
          exact::add_value(static_cast<double>(values[i]), format, row);
      },
      [&](std::size_t, std::size_t count, std::span<const std::int64_t> message) {
        const std::int64_t* row = message.data();
        for (std::size_t i = 0; i < count; ++i, row += words) sums.push_back(exact::value_of<T>(row, format));
      });
  std::copy(sums.begin(), sums.end(), values.begin());
}

}  // namespace

void all_reduce_sum(std::span<float> values, std::string_view group) { sum(values, group); }
void all_reduce_sum(std::span<double> values, std::string_view group) { sum(values, group); }

}  // namespace syncbn
