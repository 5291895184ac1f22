// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace syncbn::exact {

/// Exact signed integer of up to 72 · 64 bits, as sign and magnitude of variable length. The cost of an
/// operation grows with its values. Wide enough for n·S2, S1² and mean·A of float64 over its whole range.
class WideInt {
 public:
  static constexpr int kMaxWords = 72;

  WideInt() = default;  ///< Zero.
  explicit WideInt(std::int64_t value);
  /// Σ digits[i] · 2^(47·i), for the digits of a row (exact_sum.h).
  static WideInt from_digits(const std::int64_t* digits, int count);

  /// ± Σ words[i] · 2^(64·i)
  static WideInt from_words(const std::uint64_t* words, int count, bool negative);

  bool is_zero() const { return size_ == 0; }
  bool is_negative() const { return negative_; }

  WideInt shifted(int bits) const;  ///< this · 2^bits, bits >= 0
  friend WideInt operator*(const WideInt& a, const WideInt& b);
  friend WideInt operator-(const WideInt& a, const WideInt& b);

  /// this · 2^exponent, rounded once to nearest even. Zero is +0. A result that is too small becomes the zero
  /// of its sign, and one that is too large the infinity of its sign.
  double to_double(int exponent) const;
  float to_float(int exponent) const;

 private:
  double round(int exponent, int precision, int min_exponent) const;
  void trim();

  int size_ = 0;  // words in use; the highest of them is not zero
  bool negative_ = false;
  std::array<std::uint64_t, kMaxWords> words_;  // NOLINT: only the first size_ are ever read
};

}  // namespace syncbn::exact
