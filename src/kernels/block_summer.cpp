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
  if (!fits(sums.a_max, sums.a_min_minus_one, window_.a_low, window_.a_high) ||
      (!terms.squares() && !fits(sums.b_max, sums.b_min_minus_one, window_.b_low, window_.b_high))) {
    return add_by_windows(terms, sums, record);
  }
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
  add_to_record(window_, sums_, true, record);
  sums_ = {};
  blocks_ = 0;
}

// Of the record, which are zero at first.
template <class Storage>
std::int64_t* BlockSummer<Storage>::digits(std::int64_t* record) {
  if (!has_digits_) std::fill_n(record, format_.words(), 0);
  has_digits_ = true;
  return record;
}

template <class Storage>
void BlockSummer<Storage>::add_to_record(const Window& window, const BlockSum& sums, bool first_of_b,
                                         std::int64_t* record) {
  exact::add_to_digits(digits(record), format_, window.sums(first_of_b ? sums.sum : 0, sums.high, sums.low));
  adds_ += 2;
  if (adds_ < exact::kAddsBeforeNormalise) return;
  exact::normalise(record, format_);
  adds_ = 0;
}

template <class Storage>
void BlockSummer<Storage>::add_by_windows(const Rows<Storage>& terms, const BlockSum& seen,
                                          std::int64_t* record) {
  const bool squares = terms.squares();
  const std::uint32_t b_seen = squares ? seen.a_max : seen.b_max;
  drain(record);
  if (std::max(seen.a_max, b_seen) >= kInfinityBits) flag_specials(terms, record);
  for (Descent b(b_seen); !b.is_done();) {
    std::uint32_t b_low = 0, b_left = 0;
    for (Descent a(seen.a_max); !a.is_done();) {
      Window window = window_of<Storage>(a.top(), squares ? a.top() : b.top());
      window.a_high = std::min(window.a_high, a.limit());
      window.b_high = std::min(window.b_high, b.limit());
      const BlockSum sums = sum_block_masked(terms, window);
      add_to_record(window, sums, b.is_first(), record);
      a.go_on(window.a_low, sums.a_max);
      b_low = window.b_low;
      b_left = squares ? 0 : sums.b_max;
    }
    b.go_on(b_low, b_left);
  }
  if (seen.a_max < kInfinityBits) a_exponent_ = next_exponent(seen.a_max);
  if (b_seen < kInfinityBits) b_exponent_ = next_exponent(b_seen);
  window_ = window_of<Storage>(a_exponent_, b_exponent_);
}

template void flag_specials(const Rows<float>&, std::int64_t*);
template void flag_specials(const Rows<float16>&, std::int64_t*);
template void flag_specials(const Rows<bfloat16>&, std::int64_t*);
template class BlockSummer<float>;
template class BlockSummer<float16>;
template class BlockSummer<bfloat16>;

}  // namespace syncbn::kernels
