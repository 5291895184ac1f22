// SPDX-License-Identifier: Apache-2.0

// The digits that sums are kept and sent in, against big integers: adding scaled values, carrying, merging,
// the sum of many ranks, and rounding what came out.
//
// control: without the carry of the last but one digit in propagate_carries, or with its interval [0, 2^47),
// a run from the corpus fails at once.
#include <fmt/core.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "exact/exact_sum.h"
#include "exact/wide_int.h"
#include "fuzz/input.h"
#include "oracle/number.h"

namespace {

namespace exact = syncbn::exact;

constexpr int kCounts[] = {2, 3, 7, 13, 46, 91};  // the rows of all formats
constexpr std::int64_t kHalfRadix = std::int64_t{1} << (exact::kDigitBits - 1);

// A row of digits and the number that it should be.
struct Row {
  explicit Row(int count) : digits(static_cast<std::size_t>(count)) {}
  int count() const { return static_cast<int>(digits.size()); }

  std::vector<std::int64_t> digits;
  mpz_class value;
};

void add(Row& row, fuzz::Input& input) {
  const auto value = input.take<std::int64_t>() >> input.below(64);
  const int room = exact::kDigitBits * row.count() - 64;  // -2^63 has 64 bits
  const int shift = input.take<std::uint16_t>() % (room + 1);
  exact::add_scaled(row.digits.data(), value, shift);
  row.value += mpz_class(static_cast<long>(value)) << static_cast<mp_bitcnt_t>(shift);
}

void propagate_carries(Row& row) {
  exact::propagate_carries(row.digits.data(), row.count());
  for (int i = 0; i + 1 < row.count(); ++i) {
    const std::int64_t digit = row.digits[static_cast<std::size_t>(i)];
    fuzz::expect(-kHalfRadix <= digit && digit < kHalfRadix,
                 fmt::format("digit {} of {}: {}", i, row.count(), digit));
  }
}

// As many ranks that all bring this row.
void multiply(Row& row, std::int64_t ranks) {
  propagate_carries(row);
  if (std::abs(row.digits.back()) > kHalfRadix)
    return;  // beyond what 2^53 of the largest elements can sum to
  for (std::int64_t& digit : row.digits) digit *= ranks;
  row.value *= static_cast<long>(ranks);
}

void check_value(const Row& row, int exponent) {
  mpz_class value;
  for (auto digit = row.digits.rbegin(); digit != row.digits.rend(); ++digit) {
    value <<= exact::kDigitBits;
    value += *digit;
  }
  fuzz::expect(value == row.value, "the row's value");
  const auto wide = exact::WideInt::from_digits(row.digits.data(), row.count());
  fuzz::expect(wide.is_zero() == (value == 0) && wide.is_negative() == (value < 0), "sign");
  const oracle::Dyadic exact_value{value, exponent};
  fuzz::expect(wide.to_double(exponent) == oracle::round_to(oracle::Type::float64, exact_value),
               "rounded to double");
  fuzz::expect(
      static_cast<double>(wide.to_float(exponent)) == oracle::round_to(oracle::Type::float32, exact_value),
      "rounded to float");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const int count = kCounts[input.below(6)];
  const int exponent = -static_cast<int>(input.take<std::uint16_t>() % 4300);
  Row row(count);
  Row other(count);
  while (!input.empty()) {
    switch (input.below(4)) {
      case 0:
        add(other, input);
        break;
      case 1:
        propagate_carries(row);
        propagate_carries(other);
        break;
      case 2:
        for (std::size_t i = 0; i < row.digits.size(); ++i) row.digits[i] += other.digits[i];
        row.value += other.value;
        propagate_carries(row);
        other = Row(count);
        break;
      default:
        add(row, input);
    }
  }
  check_value(row, exponent);
  multiply(row, 1 + static_cast<std::int64_t>(size * 7919 % 65536));
  check_value(row, exponent);
  return 0;
}
