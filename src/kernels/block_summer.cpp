#include "kernels/block_summer.h"

#include <algorithm>
#include <cmath>

#include "exact/window_sums.h"
#include "kernels/convert.h"

namespace syncbn::kernels {
namespace {

// A block's sum is that of up to 2^5 accumulators, each below 2^51 units.
constexpr int kBlocksBeforeDrain = 1 << 6;

}  // namespace

template <class Storage>
void flag_specials(const Rows<Storage>& terms, std::int64_t* record) {
  const exact::SumFormat& format = exact::sum_format(dtype_of<Storage>);
  for (std::size_t row = 0; row < terms.rows; ++row) {
    for (std::size_t i = row * terms.stride; i < row * terms.stride + terms.n; ++i) {
      const bool passed = terms.mask == nullptr || passes(widen(terms.mask[i]));
      const float a = passed ? widen(terms.a[i]) : 0.0F;
      const float b = widen(terms.b[i]);
      if (!std::isfinite(a)) record[format.sum_flags()] |= exact::flag_of(static_cast<double>(a));
      if (!std::isfinite(a) || !std::isfinite(b)) {
        record[format.product_flags()] |= exact::flag_of(static_cast<double>(a * b));
      }
    }
  }
}

template <class Storage>
BlockSummer<Storage>::BlockSummer()
    : format_(exact::sum_format(dtype_of<Storage>)), window_(window_of<Storage>(a_exponent_, b_exponent_)) {}

template <class Storage>
void BlockSummer<Storage>::add(const Rows<Storage>& terms, std::int64_t* record) {
  const BlockSum sums = sum_block(terms, window_);
  const OperandRange& b = terms.squares() ? sums.a : sums.b;
  if (!window_.holds(sums.a, b)) return add_by_levels(terms, sums.a, b, record);
  sums_.sum += sums.sum;
  sums_.high += sums.high;
  sums_.low += sums.low;
  if (++blocks_ >= kBlocksBeforeDrain) drain(record);
}

template <class Storage>
void BlockSummer<Storage>::finish(std::int64_t* record) {
  if (has_digits_) {
    drain(record);
    exact::normalise(record, format_);
  } else {
    exact::set(record, format_, window_.sums(sums_.sum, sums_.high, sums_.low));
    sums_ = {};
    blocks_ = 0;
  }
  has_digits_ = false;
  adds_ = 0;
}

template <class Storage>
void BlockSummer<Storage>::drain(std::int64_t* record) {
  exact::add_to_digits(digits(record), format_, window_.sums(sums_.sum, sums_.high, sums_.low));
  sums_ = {};
  blocks_ = 0;
  count_adds(2, record);
}

// Of the record, which are zero at first.
template <class Storage>
std::int64_t* BlockSummer<Storage>::digits(std::int64_t* record) {
  if (!has_digits_) std::fill_n(record, format_.words(), 0);
  has_digits_ = true;
  return record;
}

// Of those to a digit.
template <class Storage>
void BlockSummer<Storage>::count_adds(int adds, std::int64_t* record) {
  adds_ += adds;
  if (adds_ < exact::kAddsBeforeNormalise) return;
  exact::normalise(record, format_);
  adds_ = 0;
}

template <class Storage>
void BlockSummer<Storage>::add_by_levels(const Rows<Storage>& terms, OperandRange a, OperandRange b,
                                         std::int64_t* record) {
  drain(record);
  if (a.has_specials() || b.has_specials()) flag_specials(terms, record);
  const Levels levels = levels_of<Storage>(a, b);
  for (int pass = 0; pass < levels.passes; ++pass) {
    add_levels_to_digits(record, format_, levels, pass, sum_block_levels(terms, levels, pass));
    count_adds(kProductLevels, record);
  }
  if (!a.has_specials()) a_exponent_ = next_exponent(a.max);
  if (!b.has_specials()) b_exponent_ = next_exponent(b.max);
  window_ = window_of<Storage>(a_exponent_, b_exponent_);
}

template void flag_specials(const Rows<float>&, std::int64_t*);
template void flag_specials(const Rows<float16>&, std::int64_t*);
template void flag_specials(const Rows<bfloat16>&, std::int64_t*);
template class BlockSummer<float>;
template class BlockSummer<float16>;
template class BlockSummer<bfloat16>;

}  // namespace syncbn::kernels
