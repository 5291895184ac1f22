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

// Of a row of zeros: value · 2^shift as normalised digits. They must have room for it: a float32 window's
// begin at digit 4 of 7 and 9 of 13 at most.
void set_digits(std::int64_t* digits, int count, __int128 value, int shift) {
  const int up = shift % kDigitBits;
  // The lowest digit takes fewer bits of the value, moved up.
  for (int i = shift / kDigitBits, bits = kDigitBits - up; value != 0; ++i, bits = kDigitBits) {
    std::int64_t part = static_cast<std::int64_t>(value);
    if (i + 1 < count) {  // the rest of the highest is its own
      part = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << (64 - bits)) >> (64 - bits);
    }
    digits[i] = part << (kDigitBits - bits);
    value = (value - part) >> bits;
  }
}

}  // namespace

void spread(std::int64_t* record, const SumFormat& format) {
  if (!holds_window_sums(record, format)) return;
  const WindowSums sums = window_sums(record);
  std::fill_n(record, format.words(), 0);
  set_digits(record, format.sum_digits, sums.sum, sums.sum_unit - format.unit);
  set_digits(record + format.sum_digits, format.product_digits, sums.product(),
             sums.product_unit - 2 * format.unit);
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
