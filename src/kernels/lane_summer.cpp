// SPDX-License-Identifier: Apache-2.0
#include "kernels/lane_summer.h"

#include <algorithm>
#include <array>

#include "kernels/block_summer.h"

namespace syncbn::kernels {
namespace {

// A block's sum is below 2^51 units.
constexpr int kBlocksBeforeDrain = 1 << 11;

}  // namespace

template <class Storage>
void LaneSummer<Storage>::begin(const Rows<Storage>& terms, std::size_t channels, exact::Records records) {
  constexpr std::size_t kPeek = 8;
  static constexpr LaneWindows kNone{};  // nothing fits
  loops_ = &lane_tables().of<Storage>();
  channels_ = channels;
  records_ = records[0].sum();
  sums_ = {};
  has_digits_ = {};
  blocks_ = adds_ = 0;
  if (std::is_same_v<Storage, float16>) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) aim(lane, 0, 0);
    return;
  }
  Rows<Storage> first = terms;
  first.rows = std::min(first.rows, kPeek);
  LaneRanges seen;
  loops_->sum(first, kNone, sums_, seen);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const std::uint32_t b_max = terms.squares() ? seen.a_max[lane] : seen.b_max[lane];
    // Eight rows are a small sample, so leave one extra octave of headroom.
    aim(lane, std::min(next_exponent(seen.a_max[lane]) + 1, 127), std::min(next_exponent(b_max) + 1, 127));
  }
}

template <class Storage>
void LaneSummer<Storage>::aim(std::size_t lane, int a_exponent, int b_exponent) {
  a_exponent_[lane] = a_exponent;
  b_exponent_[lane] = b_exponent;
  windows_.set(lane, window(lane));
}

template <class Storage>
Window LaneSummer<Storage>::window(std::size_t lane) const {
  return window_of<Storage>(a_exponent_[lane], b_exponent_[lane]);
}

template <class Storage>
void LaneSummer<Storage>::add(const Rows<Storage>& terms) {
  LaneRanges seen;
  if (!loops_->sum(terms, windows_, sums_, seen)) add_by_levels(terms, seen);
  if (++blocks_ < kBlocksBeforeDrain) return;
  for (std::size_t lane = 0; lane < channels_; ++lane) drain(lane);
  blocks_ = 0;
  count_adds(2);
}

template <class Storage>
void LaneSummer<Storage>::complete() {
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    if (has_digits_[lane]) {
      drain(lane);
      record(lane).propagate_carries();
    } else {
      record(lane).set(window_sums(lane));
    }
  }
}

template <class Storage>
exact::WindowSums LaneSummer<Storage>::window_sums(std::size_t lane) const {
  return window(lane).sums(sums_.sum[lane], sums_.high[lane], sums_.low[lane]);
}

template <class Storage>
exact::Record LaneSummer<Storage>::record(std::size_t lane) const {
  return exact::Records(records_, exact::sum_format(dtype_of<Storage>))[static_cast<std::int64_t>(lane)];
}

// The lane's record as digits, which are zero at first.
template <class Storage>
exact::Record LaneSummer<Storage>::digits(std::size_t lane) {
  if (!has_digits_[lane]) record(lane).clear();
  has_digits_[lane] = true;
  return record(lane);
}

// `adds`: the most additions that a digit of a lane has had since the last call.
template <class Storage>
void LaneSummer<Storage>::count_adds(int adds) {
  adds_ += adds;
  if (adds_ < exact::kAddsBeforeCarry) return;
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    if (has_digits_[lane]) record(lane).propagate_carries();
  }
  adds_ = 0;
}

template <class Storage>
void LaneSummer<Storage>::drain(std::size_t lane) {
  digits(lane).add(window_sums(lane));
  sums_.sum[lane] = sums_.high[lane] = sums_.low[lane] = 0;
}

// Moves the lane's window to the elements just seen.
template <class Storage>
void LaneSummer<Storage>::move_to(std::size_t lane, OperandRange a, OperandRange b) {
  drain(lane);
  aim(lane, a.has_specials() ? a_exponent_[lane] : next_exponent(a.max),
      b.has_specials() ? b_exponent_[lane] : next_exponent(b.max));
}

template <class Storage>
void LaneSummer<Storage>::add_by_levels(const Rows<Storage>& terms, const LaneRanges& seen) {
  std::array<Levels, kLanes> levels{};  // no pass in lanes that did fit
  LaneLevels starts{};
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    const OperandRange a = seen.a(lane), b = terms.squares() ? a : seen.b(lane);
    if (window(lane).holds(a, b)) continue;
    if (a.has_specials() || b.has_specials()) flag_specials(terms.part(lane, 1), digits(lane));
    move_to(lane, a, b);
    levels[lane] = levels_of<Storage>(a, b);
    starts.set(lane, levels[lane]);
  }
  count_adds(2);
  for (int pass = 0; pass < starts.passes; ++pass) {
    LaneLevelSums sums;
    loops_->sum_levels(terms, starts, pass, sums);
    for (std::size_t lane = 0; lane < channels_; ++lane) {
      if (pass < levels[lane].passes) add_levels(digits(lane), levels[lane], pass, sums.of(lane));
    }
    count_adds(kProductLevels);
  }
}

template class LaneSummer<float>;
template class LaneSummer<float16>;
template class LaneSummer<bfloat16>;

}  // namespace syncbn::kernels
