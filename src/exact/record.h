// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/host_device.h"
#include "exact/exact_sum.h"

/// A channel's record: its exact sums Σa and Σa·b in one of two forms.
namespace syncbn::exact {

/// Sums as the integers that the accumulators of one window of exponents hold:
/// Σa = sum · 2^sum_unit, Σa·b = (high · 2^high_shift + low) · 2^product_unit, 0 <= high_shift < 64.
/// Without terms every member is zero.
struct WindowSums {
  std::int64_t sum = 0, high = 0, low = 0;
  int sum_unit = 0, product_unit = 0, high_shift = 0;

  /// Σa·b in its unit.
  SYNCBN_DEVICE __int128 product() const { return (static_cast<__int128>(high) << high_shift) + low; }
};

/// Form of a record. Window sums cost little to make and to finish from. Only digits can be sent, or added
/// word by word.
enum class Form : std::uint8_t { digits, window_sums };

/// View of the words of one channel's record, for reading.
class ConstRecord {
 public:
  SYNCBN_DEVICE ConstRecord(const std::int64_t* words, const SumFormat& format)
      : words_(words), format_(&format) {}

  SYNCBN_DEVICE const SumFormat& format() const { return *format_; }
  SYNCBN_DEVICE Form form() const { return sum_flags() == kWindowSums ? Form::window_sums : Form::digits; }

  /// Rows of both sums and their flags, of a record that holds digits.
  SYNCBN_DEVICE const std::int64_t* sum() const { return words_; }
  SYNCBN_DEVICE const std::int64_t* product() const { return words_ + format_->sum_digits; }
  SYNCBN_DEVICE std::int64_t sum_flags() const { return product()[format_->product_digits]; }
  SYNCBN_DEVICE std::int64_t product_flags() const { return product()[format_->product_digits + 1]; }
  /// True if a term of either sum is not finite.
  SYNCBN_DEVICE bool is_special() const {
    return form() == Form::digits && (sum_flags() | product_flags()) != 0;
  }

  /// The sums of a record that holds window sums.
  SYNCBN_DEVICE WindowSums window_sums() const {
    const auto products = static_cast<int>(words_[4]);
    return {words_[0], words_[1], words_[2], static_cast<int>(words_[3]), products >> 6, products & 63};
  }

 private:
  friend class Record;
  // Marks window sums in the word of the sum's flags. Flags reach bit 59 only.
  static constexpr std::int64_t kWindowSums = std::int64_t{1} << 62;

  const std::int64_t* words_;
  const SumFormat* format_;
};

/// View of the words of one channel's record, for writing.
class Record {
 public:
  Record(std::int64_t* words, const SumFormat& format) : words_(words), format_(&format) {}
  operator ConstRecord() const { return {words_, *format_}; }  // NOLINT(google-explicit-constructor)

  const SumFormat& format() const { return *format_; }
  Form form() const { return ConstRecord(*this).form(); }
  std::int64_t* sum() const { return words_; }
  std::int64_t* product() const { return words_ + format_->sum_digits; }

  /// Makes both sums zero, as digits. The words may hold anything before.
  void clear() const { std::fill_n(words_, format_->words(), 0); }
  /// Sets the record to these sums. The words may hold anything before.
  void set(const WindowSums& sums) const {
    words_[0] = sums.sum;
    words_[1] = sums.high;
    words_[2] = sums.low;
    words_[3] = sums.sum_unit;
    words_[4] = sums.product_unit * 64 + sums.high_shift;
    sum_flags() = ConstRecord::kWindowSums;
    product_flags() = 0;
  }

  /// Adds `sums` to digits. Counts as two additions toward kAddsBeforeCarry.
  void add(const WindowSums& sums) const {
    const int above_unit = sums.product_unit - 2 * format_->unit;
    add_scaled(sum(), sums.sum, sums.sum_unit - format_->unit);
    add_scaled(product(), sums.high, above_unit + sums.high_shift);
    add_scaled(product(), sums.low, above_unit);
  }
  /// Flags a term of one of the sums, held as digits, that is not finite.
  void flag_sum(double term) const { sum_flags() |= flag_of(term); }
  void flag_product(double term) const { product_flags() |= flag_of(term); }
  /// Propagates the carries of both sums, held as digits.
  void propagate_carries() const;

  /// Turns window sums into digits with propagated carries. Digits stay as they are.
  void expand() const;
  /// Adds another record of this channel and rank, in whichever form holds the sum. May expand `other`.
  void merge(Record other) const;

 private:
  std::int64_t& sum_flags() const { return product()[format_->product_digits]; }
  std::int64_t& product_flags() const { return product()[format_->product_digits + 1]; }

  std::int64_t* words_;
  const SumFormat* format_;
};

/// Records of neighbouring channels, one after the other.
class ConstRecords {
 public:
  ConstRecords(const std::int64_t* words, const SumFormat& format) : words_(words), format_(&format) {}
  ConstRecord operator[](std::int64_t channel) const {
    return {words_ + channel * format_->words(), *format_};
  }
  ConstRecords from(std::int64_t channel) const { return {words_ + channel * format_->words(), *format_}; }

 private:
  const std::int64_t* words_;
  const SumFormat* format_;
};
class Records {
 public:
  Records(std::int64_t* words, const SumFormat& format) : words_(words), format_(&format) {}
  operator ConstRecords() const { return {words_, *format_}; }  // NOLINT(google-explicit-constructor)

  const SumFormat& format() const { return *format_; }
  Record operator[](std::int64_t channel) const { return {words_ + channel * format_->words(), *format_}; }
  Records from(std::int64_t channel) const { return {words_ + channel * format_->words(), *format_}; }
  /// Clears the records of the first `channels`.
  void clear(std::int64_t channels) const { std::fill_n(words_, channels * format_->words(), 0); }

 private:
  std::int64_t* words_;
  const SumFormat* format_;
};

}  // namespace syncbn::exact
