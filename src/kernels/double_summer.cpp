// SPDX-License-Identifier: Apache-2.0
#include "kernels/double_summer.h"

#include <algorithm>

#include "kernels/sum_doubles.h"

namespace syncbn::kernels {
namespace {

// A block's sum is that of up to 8 lanes, each below 2^51 units.
constexpr int kBlocksBeforeDrain = 1 << 8;
// Exponents of windows. Products and their levels then stay normal numbers.
constexpr int kLowestTop = -440, kHighestTop = 500;

int exponent_of(std::uint64_t bits) { return static_cast<int>(bits >> 52) - 1023; }

bool fits(std::uint64_t max, std::uint64_t min_minus_one, int top) {
  return max == 0 || (exponent_of(max) <= top && exponent_of(min_minus_one + 1) >= top - DoubleWindow::kSpan);
}

int top_of(std::uint64_t max) { return std::clamp(exponent_of(max) + 1, kLowestTop, kHighestTop); }

// a + b modulo 2^64: the sums of elements outside of the window mean nothing, and may be any integers.
std::int64_t wrapped_sum(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}

// All lanes are of one channel: the first lane gets their sums and ranges.
void gather(DoubleLaneSums& sums, std::size_t lanes) {
  for (std::size_t lane = 1; lane < lanes; ++lane) {
    for (auto& level : sums.sum) level[0] = wrapped_sum(level[0], level[lane]);
    for (auto& level : sums.product) level[0] = wrapped_sum(level[0], level[lane]);
    sums.a_max[0] = std::max(sums.a_max[0], sums.a_max[lane]);
    sums.b_max[0] = std::max(sums.b_max[0], sums.b_max[lane]);
    sums.a_min_minus_one[0] = std::min(sums.a_min_minus_one[0], sums.a_min_minus_one[lane]);
    sums.b_min_minus_one[0] = std::min(sums.b_min_minus_one[0], sums.b_min_minus_one[lane]);
  }
}

}  // namespace

bool DoubleWindow::holds(const DoubleLaneSums& sums, std::size_t lane, bool squares) const {
  return fits(sums.a_max[lane], sums.a_min_minus_one[lane], a) &&
         (squares || fits(sums.b_max[lane], sums.b_min_minus_one[lane], b));
}

DoubleWindow DoubleWindow::around(const DoubleLaneSums& sums, std::size_t lane, bool squares) {
  const int a = top_of(sums.a_max[lane]);
  return {a, squares ? a : top_of(sums.b_max[lane])};
}

DoubleSummer::DoubleSummer(DoubleWindow guess) : loops_(double_loops()) {
  windows_.fill(guess);
  std::ranges::fill(starts_.sum, guess.levels().sum_start);
  std::ranges::fill(starts_.product, guess.levels().product_start);
}

void DoubleSummer::begin(std::size_t channels, exact::Records records) {
  channels_ = channels;
  records_ = records[0].sum();
}

void DoubleSummer::add(const Rows<double>& terms) {
  DoubleLaneSums sums;
  if (sum(terms, sums, true)) sum(terms, sums, false);
  for (std::size_t channel = 0; channel < channels_; ++channel) {
    if (windows_[channel].holds(sums, channel, terms.squares())) {
      LevelSums& total = totals_[channel];
      for (int i = 0; i < kSumLevels; ++i) total.sum[i] += sums.sum[i][channel];
      for (int i = 0; i < kProductLevels; ++i) total.product[i] += sums.product[i][channel];
    } else {
      sum_doubles(channels_ == 1 ? terms : terms.part(channel, 1), record(channel));
    }
  }
  if (++blocks_ >= kBlocksBeforeDrain) complete();
}

// Sums a block. If `aim`, moves the windows of the channels that do not fit. Returns whether one of these
// fits then, and has to be summed again.
bool DoubleSummer::sum(const Rows<double>& terms, DoubleLaneSums& sums, bool aim) {
  loops_.sum(terms, starts_, sums);
  if (channels_ == 1) gather(sums, loops_.lanes());
  bool again = false;
  for (std::size_t channel = 0; channel < channels_ && aim; ++channel) {
    if (windows_[channel].holds(sums, channel, terms.squares())) continue;
    move(channel, DoubleWindow::around(sums, channel, terms.squares()));
    again = again || windows_[channel].holds(sums, channel, terms.squares());
  }
  return again;
}

void DoubleSummer::complete() {
  for (std::size_t channel = 0; channel < channels_; ++channel) drain(channel);
  blocks_ = 0;
}

void DoubleSummer::drain(std::size_t channel) {
  LevelSums& total = totals_[channel];
  if (total == LevelSums{}) return;
  add_levels(record(channel), windows_[channel].levels(), 0, total);
  record(channel).propagate_carries();
  total = {};
}

void DoubleSummer::move(std::size_t channel, DoubleWindow to) {
  drain(channel);
  windows_[channel] = to;
  const Levels levels = to.levels();
  const std::size_t end = channels_ == 1 ? kDoubleLanes : channel + 1;
  for (std::size_t lane = channel; lane < end; ++lane) {
    starts_.sum[lane] = levels.sum_start;
    starts_.product[lane] = levels.product_start;
  }
}

}  // namespace syncbn::kernels
