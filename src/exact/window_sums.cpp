#include "exact/window_sums.h"

#include <algorithm>

namespace syncbn::exact {
namespace {

// value · 2^bits, false where it is too large.
bool raise(std::int64_t& value, int bits) {
  if (bits > 62) return value == 0;
  return !__builtin_mul_overflow(value, std::int64_t{1} << bits, &value);
}

// False where the sum has no room in the finer units of the two.
bool add(WindowSums& into, WindowSums from) {
  const auto is_nothing = [](const WindowSums& sums) { return (sums.sum | sums.high | sums.low) == 0; };
  if (is_nothing(from)) return true;
  if (is_nothing(into)) {
    into = from;
    return true;
  }
  if (into.high_shift != from.high_shift) return false;
  const int sum_unit = std::min(into.sum_unit, from.sum_unit);
  const int product_unit = std::min(into.product_unit, from.product_unit);
  for (WindowSums* sums : {&into, &from}) {
    const int products_up = sums->product_unit - product_unit;
    if (!raise(sums->sum, sums->sum_unit - sum_unit) || !raise(sums->high, products_up) ||
        !raise(sums->low, products_up)) {
      return false;
    }
  }
  into.sum_unit = sum_unit;
  into.product_unit = product_unit;
  return !__builtin_add_overflow(into.sum, from.sum, &into.sum) &&
         !__builtin_add_overflow(into.high, from.high, &into.high) &&
         !__builtin_add_overflow(into.low, from.low, &into.low);
}

}  // namespace

void spread(std::int64_t* record, const SumFormat& format) {
  if (!holds_window_sums(record, format)) return;
  const WindowSums sums = window_sums(record);
  std::fill_n(record, format.words(), 0);
  add_to_digits(record, format, sums);
  normalise(record, format);
}

void unite(std::int64_t* into, std::int64_t* from, const SumFormat& format) {
  if (holds_window_sums(into, format) && holds_window_sums(from, format)) {
    WindowSums sums = window_sums(into);
    if (add(sums, window_sums(from))) return set(into, format, sums);
  }
  spread(into, format);
  spread(from, format);
  merge(into, from, format);
  normalise(into, format);
}

}  // namespace syncbn::exact
