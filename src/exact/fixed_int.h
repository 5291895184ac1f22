// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "base/host_device.h"
#include "exact/exact_sum.h"
#include "exact/wide_int.h"

namespace syncbn::exact {

/// Exact signed integer of W words of 64 bits, as sign and magnitude. Like WideInt, for numbers whose size is
/// known at compile time. No operation has a loop of unknown length, so ordinary sums take a third to a fifth
/// of WideInt's time.
template <int W>
struct FixedInt {
  bool negative = false;  // zero may have either sign
  std::uint64_t words[W] = {};

  SYNCBN_DEVICE static FixedInt of(std::int64_t value) {
    FixedInt result;
    result.negative = value < 0;
    result.words[0] = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
    return result;
  }
  SYNCBN_DEVICE static FixedInt of(__int128 value) {
    static_assert(W > 1);
    using Unsigned = unsigned __int128;
    const Unsigned magnitude = value < 0 ? 0 - static_cast<Unsigned>(value) : static_cast<Unsigned>(value);
    FixedInt result;
    result.negative = value < 0;
    result.words[0] = static_cast<std::uint64_t>(magnitude);
    result.words[1] = static_cast<std::uint64_t>(magnitude >> 64);
    return result;
  }

  /// Σ digits[i] · 2^(47·i), digits below 2^62.
  template <int kDigits>
  SYNCBN_DEVICE static FixedInt from_digits(const std::int64_t (&digits)[kDigits]) {
    constexpr int at = kDigitBits * (kDigits - 1);  // bit where the highest digit begins
    static_assert(at + 64 <= 64 * W && at / 64 + 2 >= W);
    constexpr std::uint64_t mask = (std::uint64_t{1} << kDigitBits) - 1;
    FixedInt result;
    std::int64_t carry = 0;
    for (int i = 0; i + 1 < kDigits; ++i) {
      const std::int64_t digit = digits[i] + carry;
      carry = digit >> kDigitBits;
      result.put(static_cast<std::uint64_t>(digit) & mask, kDigitBits * i);
    }
    // The highest digit is signed, and gives the number its sign. So far `words` is in two's complement.
    const std::int64_t top = digits[kDigits - 1] + carry;
    result.put(static_cast<std::uint64_t>(top), at);
    result.negative = top < 0;
    const std::uint64_t sign = result.negative ? ~std::uint64_t{0} : 0;
    if constexpr (at % 64 != 0 && at / 64 + 1 < W) result.words[at / 64 + 1] |= sign << (at % 64);
    result.negate_where(sign);
    return result;
  }

  /// this · 2^bits, 0 <= bits < 128. The result has two more words.
  SYNCBN_DEVICE FixedInt<W + 2> shifted(int bits) const {
    FixedInt<W + 2> result;
    result.negative = negative;
    const int words_up = bits / 64;
    const int rest = bits % 64;
    std::uint64_t carry = 0;
    for (int i = 0; i < W + 1; ++i) {
      const std::uint64_t word = i < W ? words[i] : 0;
      const std::uint64_t moved = rest == 0 ? word : word << rest | carry;
      carry = rest == 0 ? 0 : word >> (64 - rest);
      if (i + words_up < W + 2) result.words[i + words_up] = moved;
    }
    return result;
  }

  template <int kMore>
  SYNCBN_DEVICE FixedInt<kMore> widened() const {
    static_assert(kMore >= W);
    FixedInt<kMore> result;
    result.negative = negative;
    for (int i = 0; i < W; ++i) result.words[i] = words[i];
    return result;
  }

  template <int V>
  SYNCBN_DEVICE friend FixedInt<W + V> operator*(const FixedInt& a, const FixedInt<V>& b) {
    FixedInt<W + V> result;
    result.negative = a.negative != b.negative;
    for (int i = 0; i < W; ++i) {
      std::uint64_t carry = 0;
      for (int j = 0; j < V; ++j) {
        const unsigned __int128 t =
            static_cast<unsigned __int128>(a.words[i]) * b.words[j] + result.words[i + j] + carry;
        result.words[i + j] = static_cast<std::uint64_t>(t);
        carry = static_cast<std::uint64_t>(t >> 64);
      }
      result.words[i + V] = carry;
    }
    return result;
  }

  /// |a| and |b| must be below half of the range.
  SYNCBN_DEVICE friend FixedInt operator-(const FixedInt& a, const FixedInt& b) {
    // Computes |a| - |b| or |a| + |b| in two's complement. If the difference is below zero, the sign flips.
    const std::uint64_t flip = a.negative == b.negative ? ~std::uint64_t{0} : 0;
    FixedInt result;
    unsigned __int128 carry = flip & 1;
    for (int i = 0; i < W; ++i) {
      carry += static_cast<unsigned __int128>(a.words[i]) + (b.words[i] ^ flip);
      result.words[i] = static_cast<std::uint64_t>(carry);
      carry >>= 64;
    }
    const bool below = (result.words[W - 1] >> 63) != 0;
    result.negative = a.negative != below;
    result.negate_where(below ? ~std::uint64_t{0} : 0);
    return result;
  }

  /// As WideInt::to_double.
  SYNCBN_DEVICE double to_double(int exponent) const {
    int top = W - 1;
    while (top > 0 && words[top] == 0) --top;
    if (words[top] == 0) return 0.0;
    const int shift = std::countl_zero(words[top]);
    const std::uint64_t next = top > 0 ? words[top - 1] : 0;
    const std::uint64_t upper = shift == 0 ? words[top] : words[top] << shift | next >> (64 - shift);
    std::uint64_t below = shift == 0 ? next : next << shift;
    for (int i = 0; i < top - 1; ++i) below |= words[i];
    const int scale = exponent + 64 * top + 63 - shift;  // of the highest bit
    if (scale < -1022 || scale > 1022) return round_words(words, top + 1, negative, exponent, 53, -1074);
    // 53 bits are kept and rounded by the bits below them. A carry out of the significand raises the
    // exponent.
    const std::uint64_t kept = upper >> 11;
    const std::uint64_t half = upper >> 10 & 1;
    const bool more = (upper & 0x3ff) != 0 || below != 0;
    const std::uint64_t up = half & static_cast<std::uint64_t>(more || (kept & 1) != 0);
    const std::uint64_t bits = (static_cast<std::uint64_t>(scale + 1022) << 52) + kept + up;
    return std::bit_cast<double>(bits | static_cast<std::uint64_t>(negative) << 63);
  }

 private:
  template <int V>
  friend struct FixedInt;

  SYNCBN_DEVICE void put(std::uint64_t value, int at) {
    words[at / 64] |= value << (at % 64);
    if (at % 64 != 0 && at / 64 + 1 < W) words[at / 64 + 1] |= value >> (64 - at % 64);
  }
  SYNCBN_DEVICE void negate_where(std::uint64_t all_ones) {
    std::uint64_t carry = all_ones & 1;
    for (std::uint64_t& word : words) {
      word = (word ^ all_ones) + carry;
      carry &= static_cast<std::uint64_t>(word == 0);
    }
  }
};

}  // namespace syncbn::exact
