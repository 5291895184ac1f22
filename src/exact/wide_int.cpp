// SPDX-License-Identifier: Apache-2.0
#include "exact/wide_int.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "exact/exact_sum.h"

namespace syncbn::exact {
namespace {

using u64 = std::uint64_t;
using u128 = unsigned __int128;

// Packs the magnitude of a row of digits from 47 to 64 bits a word. Returns false if the row's sum is
// negative; the caller then tries again with the opposite sign.
SYNCBN_DEVICE bool pack(const std::int64_t* digits, int count, bool negate, u64* words, int& size) {
  __int128 carry = 0;
  u128 pending = 0;  // bits that don't fill a word yet
  int pending_bits = 0;
  size = 0;
  for (int i = 0; i < count; ++i) {
    carry += negate ? -static_cast<__int128>(digits[i]) : digits[i];
    const u64 digit = static_cast<u64>(carry) & ((u64{1} << kDigitBits) - 1);
    carry >>= kDigitBits;
    pending |= static_cast<u128>(digit) << pending_bits;
    pending_bits += kDigitBits;
    if (pending_bits >= 64) {
      words[size++] = static_cast<u64>(pending);
      pending >>= 64;
      pending_bits -= 64;
    }
  }
  if (carry < 0) return false;
  pending |= static_cast<u128>(carry) << pending_bits;  // carry < 2^17, pending_bits < 64
  words[size++] = static_cast<u64>(pending);
  words[size++] = static_cast<u64>(pending >> 64);
  return true;
}

SYNCBN_DEVICE int compare_magnitude(const u64* a, int a_size, const u64* b, int b_size) {
  if (a_size != b_size) return a_size < b_size ? -1 : 1;
  for (int i = a_size - 1; i >= 0; --i) {
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  }
  return 0;
}

}  // namespace

SYNCBN_DEVICE void WideInt::set(std::int64_t value) {
  negative_ = value < 0;
  words_[0] = negative_ ? 0 - static_cast<u64>(value) : static_cast<u64>(value);
  size_ = 1;
  trim();
}

SYNCBN_DEVICE void WideInt::set_digits(const std::int64_t* digits, int count) {
  negative_ = !pack(digits, count, false, words_.data(), size_);
  if (negative_) pack(digits, count, true, words_.data(), size_);
  trim();
}

SYNCBN_DEVICE void WideInt::set_words(const std::uint64_t* words, int count, bool negative) {
  std::copy_n(words, count, words_.begin());
  size_ = count;
  negative_ = negative;
  trim();
}

SYNCBN_DEVICE void WideInt::trim() {
  while (size_ > 0 && words_[static_cast<std::size_t>(size_ - 1)] == 0) --size_;
  if (size_ == 0) negative_ = false;
}

SYNCBN_DEVICE void WideInt::set_shifted(const WideInt& a, int bits) {
  size_ = 0;
  negative_ = a.negative_;
  if (a.is_zero()) return;
  const int words = bits / 64;
  const int rest = bits % 64;
  std::fill_n(words_.begin(), words, 0);
  u64 carry = 0;
  for (int i = 0; i < a.size_; ++i) {
    const u64 word = a.words_[static_cast<std::size_t>(i)];
    words_[static_cast<std::size_t>(i + words)] = rest == 0 ? word : word << rest | carry;
    carry = rest == 0 ? 0 : word >> (64 - rest);
  }
  size_ = a.size_ + words;
  if (carry != 0) words_[static_cast<std::size_t>(size_++)] = carry;
}

SYNCBN_DEVICE void WideInt::set_product(const WideInt& a, const WideInt& b) {
  size_ = a.size_ + b.size_;
  negative_ = a.negative_ != b.negative_;
  u64* out = words_.data();
  std::fill_n(out, size_, 0);
  for (int i = 0; i < a.size_; ++i) {
    const u64 factor = a.words_[static_cast<std::size_t>(i)];
    u64 carry = 0;
    for (int j = 0; j < b.size_; ++j) {
      const u128 t = static_cast<u128>(factor) * b.words_[static_cast<std::size_t>(j)] + out[i + j] + carry;
      out[i + j] = static_cast<u64>(t);
      carry = static_cast<u64>(t >> 64);
    }
    out[i + b.size_] = carry;
  }
  trim();
}

SYNCBN_DEVICE void WideInt::set_difference(const WideInt& a, const WideInt& b) {
  const u64* x = a.words_.data();
  const u64* y = b.words_.data();
  int x_size = a.size_;
  int y_size = b.size_;
  u64* out = words_.data();
  const bool add = a.negative_ != b.negative_;
  negative_ = a.is_zero() ? !b.negative_ : a.negative_;
  const bool swap = compare_magnitude(x, x_size, y, y_size) < 0;
  if (swap) {
    std::swap(x, y);
    std::swap(x_size, y_size);
  }
  if (add) {
    u64 carry = 0;
    for (int i = 0; i < x_size; ++i) {
      const u128 t = static_cast<u128>(x[i]) + (i < y_size ? y[i] : 0) + carry;
      out[i] = static_cast<u64>(t);
      carry = static_cast<u64>(t >> 64);
    }
    size_ = x_size;
    if (carry != 0) out[size_++] = carry;
  } else {
    if (swap && !a.is_zero()) negative_ = !a.negative_;
    u64 borrow = 0;
    for (int i = 0; i < x_size; ++i) {
      const u128 t = static_cast<u128>(x[i]) - (i < y_size ? y[i] : 0) - borrow;
      out[i] = static_cast<u64>(t);
      borrow = static_cast<u64>(t >> 64) & 1;
    }
    size_ = x_size;
  }
  trim();
}

SYNCBN_DEVICE double round_words(const u64* words, int size, bool negative, int exponent, int precision,
                                 int min_exponent) {
  if (size == 0) return 0.0;
  const auto word = [words, size](int i) { return i < size ? words[i] : u64{0}; };
  const int length = 64 * size - std::countl_zero(word(size - 1));
  const int unit =
      std::max(exponent + length - precision, min_exponent);  // exponent of the result's last bit
  const int drop = unit - exponent;
  u64 kept = 0;
  if (drop <= 0) {
    kept = word(0);  // length <= precision: nothing to round
  } else if (drop <= length) {
    const int at = drop / 64;
    const int shift = drop % 64;
    kept = shift == 0 ? word(at) : word(at) >> shift | word(at + 1) << (64 - shift);
    const int half = drop - 1;
    const bool half_bit = (word(half / 64) >> (half % 64) & 1) != 0;
    bool below = (word(half / 64) & ((u64{1} << (half % 64)) - 1)) != 0;
    for (int i = 0; i < half / 64 && !below; ++i) below = word(i) != 0;
    if (half_bit && (below || (kept & 1) != 0)) ++kept;
  }
  const int scale = drop <= 0 ? exponent : unit;
  // A power of two times at most 2^53: exact, or the infinity.
  const double value =
      scale >= -1022 && scale <= 1023
          ? static_cast<double>(kept) * std::bit_cast<double>(static_cast<u64>(scale + 1023) << 52)
          : std::ldexp(static_cast<double>(kept), scale);
  return negative ? -value : value;
}

}  // namespace syncbn::exact
