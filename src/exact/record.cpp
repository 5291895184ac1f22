// SPDX-License-Identifier: Apache-2.0
#include "exact/record.h"

#include <algorithm>

namespace syncbn::exact {
namespace {

// value *= 2^bits. Returns false if the result is too large.
bool raise(std::int64_t& value, int bits) {
  if (bits > 62) return value == 0;
  return !__builtin_mul_overflow(value, std::int64_t{1} << bits, &value);
}

// into += from. Returns false if the sum has no room in the finer of the two units.
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

// Writes value · 2^shift into a row of zeros, with propagated carries. The row must have room: sums of a
// float32 window begin at digit 4 of 7, and products at digit 9 of 13, at the latest.
void set_digits(std::int64_t* digits, int count, __int128 value, int shift) {
  const int up = shift % kDigitBits;
  // The lowest digit takes fewer bits of the value, since they are moved up.
  for (int i = shift / kDigitBits, bits = kDigitBits - up; value != 0; ++i, bits = kDigitBits) {
    std::int64_t part = static_cast<std::int64_t>(value);
    if (i + 1 < count) {  // the highest digit takes all bits that are left
      part = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << (64 - bits)) >> (64 - bits);
    }
    digits[i] = part << (kDigitBits - bits);
    value = (value - part) >> bits;
  }
}

}  // namespace

void Record::propagate_carries() const {
  exact::propagate_carries(sum(), format_->sum_digits);
  exact::propagate_carries(product(), format_->product_digits);
}

void Record::expand() const {
  if (form() == Form::digits) return;
  const WindowSums sums = ConstRecord(*this).window_sums();
  clear();
  set_digits(sum(), format_->sum_digits, sums.sum, sums.sum_unit - format_->unit);
  set_digits(product(), format_->product_digits, sums.product(), sums.product_unit - 2 * format_->unit);
}

void Record::merge(Record other) const {
  if (form() == Form::window_sums && other.form() == Form::window_sums) {
    WindowSums sums = ConstRecord(*this).window_sums();
    if (exact::add(sums, ConstRecord(other).window_sums())) return set(sums);
  }
  expand();
  other.expand();
  const int digits = format_->sum_digits + format_->product_digits;
  for (int i = 0; i < digits; ++i) words_[i] += other.words_[i];
  sum_flags() |= other.sum_flags();
  product_flags() |= other.product_flags();
  propagate_carries();
}

}  // namespace syncbn::exact
