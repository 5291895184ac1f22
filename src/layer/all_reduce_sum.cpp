// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/fp_environment.h"
#include "exact/value_row.h"
#include "syncbn/dtype.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "world/resolve_group.h"

namespace syncbn {
namespace {

// Values a message: 0.5 MB of float32, 3 MB of float64.
constexpr std::size_t kValuesAtOnce = 8192;

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

// Σ over the ranks, value by value: the digits of one row of exact_sum.h and its flags travel.
template <class T>
void sum(std::span<T> values, std::string_view name) {
  const base::FpEnvironment environment;
  const auto group = world::resolve_group(name);
  const exact::SumFormat& format = exact::sum_format(dtype_of<T>);
  const auto words = static_cast<std::size_t>(format.sum_digits + 1);
  group::CallDescription call{"all_reduce_sum",
                              fmt::format("values={}, type={}", values.size(), name_of(dtype_of<T>))};
  std::vector<T> sums;
  std::vector<std::int64_t> message;
  try {  // all that may fail on this rank alone
    check(values);
    sums.resize(values.size());
    message.reserve(std::min(kValuesAtOnce, values.size()) * words);
  } catch (const std::exception& error) {
    group->fail(call, error.what());
    throw;
  }
  std::size_t begin = 0;
  do {  // no values are a call, too
    const std::size_t count = std::min(kValuesAtOnce, values.size() - begin);
    message.assign(count * words, 0);
    for (std::size_t i = 0; i < count; ++i)
      exact::add_value(static_cast<double>(values[begin + i]), format, &message[i * words]);
    group->sum(call, message);
    for (std::size_t i = 0; i < count; ++i) sums[begin + i] = exact::value_of<T>(&message[i * words], format);
    begin += count;
  } while (begin < values.size());
  std::copy(sums.begin(), sums.end(), values.begin());
}

}  // namespace

void all_reduce_sum(std::span<float> values, std::string_view group) { sum(values, group); }
void all_reduce_sum(std::span<double> values, std::string_view group) { sum(values, group); }

}  // namespace syncbn
