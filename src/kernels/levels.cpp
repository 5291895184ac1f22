// SPDX-License-Identifier: Apache-2.0
#include "kernels/levels.h"

#include <algorithm>

namespace syncbn::kernels {
namespace {

// log2 of the ulp, as a float, of the smallest nonzero element. If there is no such element, the result asks
// for no further pass.
int unit_of(OperandRange range) { return range.max == 0 ? 127 : exponent_of(range.min_minus_one + 1) - 23; }

// Number of passes from the highest level's unit down to `bit`.
int passes_to(int bit, int highest_ulp, int levels) {
  const int missing = std::max(highest_ulp - bit, 0);
  return (missing + kLevelBits - 1) / kLevelBits / levels + 1;
}

// digits += value · 2^shift. A level's unit may lie below the format's unit. All terms are multiples of the
// format's unit, so the level's value is one too: the bits that are shifted out are zero.
void add(std::int64_t* digits, std::int64_t value, int shift) {
  if (value != 0) exact::add_scaled(digits, shift < 0 ? value >> -shift : value, std::max(shift, 0));
}

}  // namespace

Levels levels_at(int max_exponent_a, int max_exponent_b, int passes) {
  constexpr int l = kLogAdditions;
  const int sum = max_exponent_a + 2 + l;  // as in make_window
  const int product = max_exponent_a + max_exponent_b + 3 + l;
  return {start_at(sum), start_at(product), sum - 52, product - 52, passes};
}

Levels make_levels(OperandRange a, OperandRange b, int largest) {
  const auto top = [&](OperandRange range) {
    return range.max < kInfinityBits ? exponent_of(range.max) : largest;
  };
  Levels levels = levels_at(top(a), top(b), 1);
  levels.passes = std::max(passes_to(unit_of(a), levels.sum_ulp, kSumLevels),
                           passes_to(unit_of(a) + unit_of(b), levels.product_ulp, kProductLevels));
  return levels;
}

void add_levels(exact::Record record, const Levels& levels, int pass, const LevelSums& sums) {
  const int record_unit = record.format().unit;
  for (int i = 0; i < kSumLevels; ++i) {
    const int unit = levels.sum_ulp - kLevelBits * (pass * kSumLevels + i);
    add(record.sum(), sums.sum[i], unit - record_unit);
  }
  for (int i = 0; i < kProductLevels; ++i) {
    const int unit = levels.product_ulp - kLevelBits * (pass * kProductLevels + i);
    add(record.product(), sums.product[i], unit - 2 * record_unit);
  }
}

}  // namespace syncbn::kernels
