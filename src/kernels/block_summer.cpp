// SPDX-License-Identifier: Apache-2.0
#include "kernels/block_summer.h"

#include <algorithm>
#include <cmath>

#include "kernels/convert.h"

namespace syncbn::kernels {
namespace {

// A block's sum is that of up to 2^5 accumulators, each below 2^51 units.
constexpr int kBlocksBeforeDrain = 1 << 6;

}  // namespace

template <class Storage>
void flag_specials(const Rows<Storage>& terms, exact::Record record) {
  for (std::size_t row = 0; row < terms.rows; ++row) {
    for (std::size_t i = row * terms.stride; i < row * terms.stride + terms.n; ++i) {
      const bool passed = terms.mask == nullptr || passes(widen(terms.mask[i]));
      const float a = passed ? widen(terms.a[i]) : 0.0F;
      const float b = widen(terms.b[i]);
      if (!std::isfinite(a)) record.flag_sum(static_cast<double>(a));
      if (!std::isfinite(a) || !std::isfinite(b)) record.flag_product(static_cast<double>(a * b));
    }
  }
}

template <class Storage>
BlockSummer<Storage>::BlockSummer()
    : loops_(block_tables().of<Storage>()), window_(window_of<Storage>(a_exponent_, b_exponent_)) {}

template <class Storage>
void BlockSummer<Storage>::add(const Rows<Storage>& terms, exact::Record record) {
  const BlockSum sums = loops_.sum(terms, window_);
  if (!sums.fits) return add_by_levels(terms, sums.a, sums.b, record);
  sums_.sum += sums.sum;
  sums_.high += sums.high;
  sums_.low += sums.low;
  if (++blocks_ >= kBlocksBeforeDrain) drain(record);
}

template <class Storage>
void BlockSummer<Storage>::complete(exact::Record record) {
  if (has_digits_) {
    drain(record);
    record.propagate_carries();
  } else {
    record.set(window_sums());
    sums_ = {};
    blocks_ = 0;
  }
  has_digits_ = false;
  adds_ = 0;
}

template <class Storage>
void BlockSummer<Storage>::drain(exact::Record record) {
  if (!has_digits_) record.clear();
  has_digits_ = true;
  record.add(window_sums());
  sums_ = {};
  blocks_ = 0;
  count_adds(2, record);
}

template <class Storage>
void BlockSummer<Storage>::count_adds(int adds, exact::Record record) {
  adds_ += adds;
  if (adds_ < exact::kAddsBeforeCarry) return;
  record.propagate_carries();
  adds_ = 0;
}

template <class Storage>
void BlockSummer<Storage>::add_by_levels(const Rows<Storage>& terms, OperandRange a, OperandRange b,
                                         exact::Record record) {
  drain(record);
  if (a.has_specials() || b.has_specials()) flag_specials(terms, record);
  const Levels levels = levels_of<Storage>(a, b);
  for (int pass = 0; pass < levels.passes; ++pass) {
    add_levels(record, levels, pass, loops_.sum_levels(terms, levels, pass));
    count_adds(kProductLevels, record);
  }
  if (!a.has_specials()) a_exponent_ = next_exponent(a.max);
  if (!b.has_specials()) b_exponent_ = next_exponent(b.max);
  window_ = window_of<Storage>(a_exponent_, b_exponent_);
}

template void flag_specials(const Rows<float>&, exact::Record);
template void flag_specials(const Rows<float16>&, exact::Record);
template void flag_specials(const Rows<bfloat16>&, exact::Record);
template class BlockSummer<float>;
template class BlockSummer<float16>;
template class BlockSummer<bfloat16>;

}  // namespace syncbn::kernels
