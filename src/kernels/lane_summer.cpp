#include "kernels/lane_summer.h"

#include <algorithm>
#include <array>

#include "exact/window_sums.h"
#include "kernels/block_summer.h"

namespace syncbn::kernels {
namespace {

// A block's sum is below 2^52 units.
constexpr int kBlocksBeforeDrain = 1 << 11;

template <class Storage>
Rows<Storage> column(Rows<Storage> terms, std::size_t lane) {
  terms.a += lane;
  terms.b += lane;
  if (terms.mask != nullptr) terms.mask += lane;
  terms.n = 1;
  return terms;
}

}  // namespace

template <class Storage>
void LaneSummer<Storage>::start(const Rows<Storage>& terms, std::size_t channels, std::int64_t* records) {
  constexpr std::size_t kPeek = 8;
  channels_ = channels;
  records_ = records;
  windows_ = {};
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
  sum_lanes(first, windows_, sums_, seen);  // in empty windows, where nothing fits
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const std::uint32_t b_max = terms.squares() ? seen.a_max[lane] : seen.b_max[lane];
    // So few say little about the others: one octave more to spare.
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
  if (!sum_lanes(terms, windows_, sums_, seen)) add_by_windows(terms, seen);
  if (++blocks_ < kBlocksBeforeDrain) return;
  for (std::size_t lane = 0; lane < channels_; ++lane) drain(lane);
  blocks_ = 0;
  count_adds();
}

template <class Storage>
void LaneSummer<Storage>::finish() {
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    if (has_digits_[lane]) {
      drain(lane);
      exact::normalise(record(lane), format());
    } else {
      const Window w = window(lane);
      exact::set(record(lane), format(), w.sums(sums_.sum[lane], sums_.high[lane], sums_.low[lane]));
    }
  }
}

template <class Storage>
std::int64_t* LaneSummer<Storage>::record(std::size_t lane) {
  return records_ + static_cast<std::int64_t>(lane) * format().words();
}

// Of the record, which are zero at first.
template <class Storage>
std::int64_t* LaneSummer<Storage>::digits(std::size_t lane) {
  if (!has_digits_[lane]) std::fill_n(record(lane), format().words(), 0);
  has_digits_[lane] = true;
  return record(lane);
}

template <class Storage>
void LaneSummer<Storage>::add_to_record(std::size_t lane, const Window& w, const LaneSums& sums,
                                        bool first_of_b) {
  exact::add_to_digits(digits(lane), format(),
                       w.sums(first_of_b ? sums.sum[lane] : 0, sums.high[lane], sums.low[lane]));
}

// Each lane has had up to two additions to a digit since the last call.
template <class Storage>
void LaneSummer<Storage>::count_adds() {
  adds_ += 2;
  if (adds_ < exact::kAddsBeforeNormalise) return;
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    if (has_digits_[lane]) exact::normalise(record(lane), format());
  }
  adds_ = 0;
}

template <class Storage>
void LaneSummer<Storage>::drain(std::size_t lane) {
  add_to_record(lane, window(lane), sums_, true);
  sums_.sum[lane] = sums_.high[lane] = sums_.low[lane] = 0;
}

// To where the elements just seen lie.
template <class Storage>
void LaneSummer<Storage>::move_to(std::size_t lane, std::uint32_t a_max, std::uint32_t b_max) {
  const auto exponent = [](std::uint32_t max, std::uint32_t high) {
    return max < kInfinityBits ? next_exponent(max) : static_cast<int>(high >> 23) - 128;
  };
  const Window w = window(lane);
  const int a = exponent(a_max, w.a_high);
  const int b = exponent(b_max, w.b_high);
  drain(lane);
  aim(lane, a, b);
}

template <class Storage>
void LaneSummer<Storage>::add_by_windows(const Rows<Storage>& terms, const LaneRanges& seen) {
  const bool squares = terms.squares();
  const auto& b_max = squares ? seen.a_max : seen.b_max;
  std::array<Descent, kLanes> a, b;  // done in lanes that did fit
  for (std::size_t lane = 0; lane < channels_; ++lane) {
    const Window w = window(lane);
    if (fits(seen.a_max[lane], seen.a_min_minus_one[lane], w.a_low, w.a_high) &&
        (squares || fits(seen.b_max[lane], seen.b_min_minus_one[lane], w.b_low, w.b_high))) {
      continue;
    }
    b[lane] = Descent(b_max[lane]);
    if (std::max(seen.a_max[lane], b_max[lane]) >= kInfinityBits)
      flag_specials(column(terms, lane), digits(lane));
    move_to(lane, seen.a_max[lane], b_max[lane]);
  }
  count_adds();
  const auto open = [](const Descent& descent) { return !descent.is_done(); };
  LaneWindows windows;
  std::array<Window, kLanes> window;
  std::array<std::uint32_t, kLanes> b_left;
  while (std::any_of(b.begin(), b.end(), open)) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      a[lane] = open(b[lane]) ? Descent(seen.a_max[lane]) : Descent();
    }
    while (std::any_of(a.begin(), a.end(), open)) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        windows.clear(lane);
        if (!open(a[lane])) continue;
        window[lane] = window_of<Storage>(a[lane].top(), squares ? a[lane].top() : b[lane].top());
        window[lane].a_high = std::min(window[lane].a_high, a[lane].limit());
        window[lane].b_high = std::min(window[lane].b_high, b[lane].limit());
        windows.set(lane, window[lane]);
      }
      LaneSums sums;
      LaneRanges left;
      sum_lanes_masked(terms, windows, sums, left);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (!open(a[lane])) continue;
        add_to_record(lane, window[lane], sums, b[lane].is_first());
        a[lane].go_on(window[lane].a_low, left.a_max[lane]);
        b_left[lane] = squares ? 0 : left.b_max[lane];
      }
      count_adds();
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (open(b[lane])) b[lane].go_on(window[lane].b_low, b_left[lane]);
    }
  }
}

template class LaneSummer<float>;
template class LaneSummer<float16>;
template class LaneSummer<bfloat16>;

}  // namespace syncbn::kernels
