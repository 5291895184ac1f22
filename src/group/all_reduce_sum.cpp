#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "exact/exact_sum.h"
#include "exact/wide_int.h"
#include "group/registry.h"
#include "kernels/fp_environment.h"
#include "syncbn/dtype.h"
#include "syncbn/group.h"

namespace syncbn {
namespace {

// Values a message: 0.5 MB of float32, 3 MB of float64.
constexpr std::size_t kValuesAtOnce = 8192;

// value = significand · 2^(unit + shift) in the row of digits; NaN and infinities only raise a flag.
template <class T>
void encode(T value, const exact::SumFormat& format, std::int64_t* words) {
  if (!std::isfinite(value)) {
    words[format.sum_digits] = exact::flag_of(static_cast<double>(value));
    return;
  }
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int kFraction = sizeof(T) == 4 ? 23 : 52;
  const auto bits = std::bit_cast<Bits>(value);
  const auto fraction = static_cast<std::int64_t>(bits & ((Bits{1} << kFraction) - 1));
  const int biased = static_cast<int>(bits << 1 >> (kFraction + 1));
  const std::int64_t significand = biased == 0 ? fraction : fraction | std::int64_t{1} << kFraction;
  exact::add_scaled(words, std::signbit(value) ? -significand : significand, std::max(biased, 1) - 1);
}

template <class T>
T decode(const std::int64_t* words, const exact::SumFormat& format) {
  if (words[format.sum_digits] != 0) return static_cast<T>(exact::special_value(words[format.sum_digits]));
  const auto sum = exact::WideInt::from_digits(words, format.sum_digits);
  if constexpr (std::is_same_v<T, float>) {
    return sum.to_float(format.unit);
  } else {
    return sum.to_double(format.unit);
  }
}

// Σ over the ranks, value by value: the digits of one row of exact_sum.h and its flags travel.
template <class T>
void sum(std::span<T> values, std::string_view name) {
  const kernels::FpEnvironment environment;
  const auto group = group::resolve_group(name);
  const exact::SumFormat& format = exact::sum_format(dtype_of<T>);
  const auto words = static_cast<std::size_t>(format.sum_digits + 1);
  group::Call call{"all_reduce_sum", fmt::format("values={}, type={}", values.size(), name_of(dtype_of<T>))};
  std::vector<T> sums;
  std::vector<std::int64_t> message;
  try {  // all that may fail on this rank alone
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
    for (std::size_t i = 0; i < count; ++i) encode(values[begin + i], format, &message[i * words]);
    group->sum(call, message);
    for (std::size_t i = 0; i < count; ++i) sums[begin + i] = decode<T>(&message[i * words], format);
    begin += count;
  } while (begin < values.size());
  std::copy(sums.begin(), sums.end(), values.begin());
}

}  // namespace

void all_reduce_sum(std::span<float> values, std::string_view group) { sum(values, group); }
void all_reduce_sum(std::span<double> values, std::string_view group) { sum(values, group); }

}  // namespace syncbn
