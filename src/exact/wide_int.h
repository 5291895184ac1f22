// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "base/host_device.h"

namespace syncbn::exact {

/// ± Σ words[i] · 2^(64·i + exponent), rounded once to nearest even: to `precision` bits, the lowest of them
/// 2^min_exponent or above. `size` counts the words; the highest is not zero. Zero, without a word, is +0. A
/// result that is too small becomes the zero of its sign, and one that is too large the infinity of its sign.
SYNCBN_DEVICE double round_words(const std::uint64_t* words, int size, bool negative, int exponent,
                                 int precision, int min_exponent);

/// Exact signed integer of up to 72 · 64 bits, as sign and magnitude of variable length. The cost of an
/// operation grows with its values. Wide enough for n·S2, S1² and mean·A of float64 over its whole range. The
/// operations write to an object that the caller has: a GPU has too little memory a thread for results on the
/// stack.
class WideInt {
 public:
  static constexpr int kMaxWords = 72;

  WideInt() = default;  ///< Zero.
  explicit WideInt(std::int64_t value) { set(value); }
  /// Σ digits[i] · 2^(47·i), for the digits of a row (exact_sum.h).
  static WideInt from_digits(const std::int64_t* digits, int count) {
    WideInt result;
    result.set_digits(digits, count);
    return result;
  }

  SYNCBN_DEVICE void set(std::int64_t value);
  SYNCBN_DEVICE void set_digits(const std::int64_t* digits, int count);
  /// ± Σ words[i] · 2^(64·i)
  SYNCBN_DEVICE void set_words(const std::uint64_t* words, int count, bool negative);
  /// a · 2^bits, bits >= 0. `a` is another object, as are a and b below.
  SYNCBN_DEVICE void set_shifted(const WideInt& a, int bits);
  SYNCBN_DEVICE void set_product(const WideInt& a, const WideInt& b);
  SYNCBN_DEVICE void set_difference(const WideInt& a, const WideInt& b);

  SYNCBN_DEVICE bool is_zero() const { return size_ == 0; }
  bool is_negative() const { return negative_; }

  WideInt shifted(int bits) const {
    WideInt result;
    result.set_shifted(*this, bits);
    return result;
  }
  friend WideInt operator*(const WideInt& a, const WideInt& b) {
    WideInt result;
    result.set_product(a, b);
    return result;
  }
  friend WideInt operator-(const WideInt& a, const WideInt& b) {
    WideInt result;
    result.set_difference(a, b);
    return result;
  }

  /// this · 2^exponent, as round_words().
  SYNCBN_DEVICE double to_double(int exponent) const {
    return round_words(words_.data(), size_, negative_, exponent, 53, -1074);
  }
  float to_float(int exponent) const {
    return static_cast<float>(round_words(words_.data(), size_, negative_, exponent, 24, -149));
  }

 private:
  SYNCBN_DEVICE void trim();

  int size_ = 0;  // words in use; the highest of them is not zero
  bool negative_ = false;
  std::array<std::uint64_t, kMaxWords> words_;  // NOLINT: only the first size_ are ever read
};

}  // namespace syncbn::exact
