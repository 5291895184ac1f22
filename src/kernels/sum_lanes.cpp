// SPDX-License-Identifier: Apache-2.0
#include "kernels/sum_lanes.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sum_lanes.cpp"
#include <hwy/foreach_target.h>  // includes this file once per target, so before highway.h
#include <hwy/highway.h>

#include "kernels/exact-inl.h"
#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Never dispatched to: without vector registers the plain loops run.
template <class Storage>
bool sum(const Rows<Storage>&, const LaneWindows&, LaneSums&, LaneRanges&) {
  return false;
}
template <class Storage>
void sum_levels(const Rows<Storage>&, const LaneLevels&, int, LaneLevelSums&) {}
#else
// Vectors of floats side by side: as many as the registers hold accumulators for, three doubles a float.
constexpr std::size_t kVectors = HWY_MAX_BYTES == 64 || HWY_TARGET == HWY_NEON ? 2 : 1;

// Rows that are fetched ahead. Into the second cache: in the first, rows that are far apart fall into few
// sets and drive each other out (512 channels: 24 instead of 38 GB/s, AVX-512, two threads).
constexpr std::size_t kRowsAhead = 32;
HWY_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// What a chain of doubles holds, as integers.
HWY_INLINE hn::Vec<hn::RebindToSigned<DoubleTag>> held(Double chain, Double start) {
  const hn::RebindToSigned<DoubleTag> di;
  return hn::Sub(hn::BitCast(di, chain), hn::BitCast(di, start));
}

// Calls take(v, x, y) for each row's vectors of terms from `at` on, v < kVectors.
template <Pairs kPairs, bool kFetch, class Storage, class Take>
HWY_INLINE void for_each_vector(const Rows<Storage>& terms, std::size_t at, const Take& take) {
  const Storage* a = terms.a + at;
  const Storage* b = terms.b + at;
  const Storage* mask = kPairs == Pairs::rectified ? terms.mask + at : nullptr;
  const std::size_t stride = terms.stride;
  for (std::size_t row = 0; row < terms.rows; ++row) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t j = v * hn::Lanes(FloatTag());
      if constexpr (kFetch) {
        fetch(a + j + kRowsAhead * stride);
        if constexpr (kPairs != Pairs::squares) fetch(b + j + kRowsAhead * stride);
        if constexpr (kPairs == Pairs::rectified) fetch(mask + j + kRowsAhead * stride);
      }
      if constexpr (kPairs == Pairs::squares) {
        take(v, whole(a + j), whole(a + j));
      } else if constexpr (kPairs == Pairs::products) {
        take(v, whole(a + j), whole(b + j));
      } else {
        take(v, InRegister(where_passes(load(mask + j), load(a + j))), whole(b + j));
      }
    }
    a += stride;
    b += stride;
    if constexpr (kPairs == Pairs::rectified) mask += stride;
  }
}

// Lanes [at, at + kVectors vectors) of the group.
template <Pairs kPairs, class Storage>
HWY_INLINE bool sum_strip(const Rows<Storage>& terms, std::size_t at, const LaneWindows& windows,
                          LaneSums& sums, LaneRanges& seen) {
  const DoubleTag dd;
  const BitsTag du;
  const hn::RebindToSigned<DoubleTag> di;
  const hn::RebindToSigned<BitsTag> di32;
  const hn::Half<decltype(di32)> di32h;
  const std::size_t half = hn::Lanes(dd);

  Accumulator chains[2 * kVectors];
  Range a_range[kVectors], b_range[kVectors];
  for (std::size_t k = 0; k < 2 * kVectors; ++k) {
    const std::size_t c = at + k * half;
    chains[k] = {hn::Load(dd, windows.sum_start + c), hn::Load(dd, windows.high_start + c),
                 hn::Load(dd, windows.low_start + c)};
  }
  for (std::size_t v = 0; v < kVectors; ++v) a_range[v] = b_range[v] = Range::none();
  for_each_vector<kPairs, true>(terms, at, [&](std::size_t v, const auto& x, const auto& y) HWY_ATTR {
    a_range[v].see(x.all());
    if constexpr (kPairs != Pairs::squares) b_range[v].see(y.all());
    for (std::size_t k = 0; k < 2; ++k) chains[2 * v + k].add(x.half(k), y.half(k));
  });

  bool all = true;
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t c = at + v * hn::Lanes(FloatTag());
    auto fitting = hn::Set(di32, -1);  // a lane's mask
    auto misfit = a_range[v].outside(hn::Load(du, windows.a_low + c), hn::Load(du, windows.a_high + c));
    if constexpr (kPairs != Pairs::squares) {
      misfit = hn::Or(misfit,
                      b_range[v].outside(hn::Load(du, windows.b_low + c), hn::Load(du, windows.b_high + c)));
    }
    if (!hn::AllFalse(du, misfit)) {
      all = false;
      fitting = hn::BitCast(di32, hn::Not(hn::VecFromMask(du, misfit)));
    }
    hn::Store(a_range[v].max, du, seen.a_max + c);
    hn::Store(a_range[v].min_minus_one, du, seen.a_min_minus_one + c);
    hn::Store(b_range[v].max, du, seen.b_max + c);
    hn::Store(b_range[v].min_minus_one, du, seen.b_min_minus_one + c);
    for (std::size_t k = 0; k < 2; ++k) {
      const std::size_t place = c + k * half;
      const Accumulator& chain = chains[2 * v + k];
      const auto chosen =
          hn::PromoteTo(di, k == 0 ? hn::LowerHalf(di32h, fitting) : hn::UpperHalf(di32h, fitting));
      const auto add = [&](std::int64_t* total, Double part, const double* start) HWY_ATTR {
        const auto value = hn::And(held(part, hn::Load(dd, start + place)), chosen);
        hn::Store(hn::Add(hn::Load(di, total + place), value), di, total + place);
      };
      add(sums.sum, chain.sum, windows.sum_start);
      add(sums.high, chain.high, windows.high_start);
      add(sums.low, chain.low, windows.low_start);
    }
  }
  return all;
}

template <Pairs kPairs, class Storage>
HWY_INLINE void sum_levels_strip(const Rows<Storage>& terms, std::size_t at, const LaneLevels& levels,
                                 int pass, LaneLevelSums& sums) {
  const DoubleTag dd;
  const hn::RebindToSigned<DoubleTag> di;
  const std::size_t half = hn::Lanes(dd);
  const auto starts = [&](std::size_t k) HWY_ATTR {
    return LevelStarts(hn::Load(dd, levels.sum_start + at + k * half),
                       hn::Load(dd, levels.product_start + at + k * half));
  };
  LevelAccumulator chains[2 * kVectors];
  for (std::size_t k = 0; k < 2 * kVectors; ++k) chains[k] = LevelAccumulator(starts(k), pass);
  add_on_levels<kPairs>(chains, starts, levels.passes, pass, [&](const auto& take) HWY_ATTR {
    for_each_vector<kPairs, false>(
        terms, at, [&](std::size_t v, const auto& x, const auto& y) HWY_ATTR { take(v, x.all(), y.all()); });
  });
  for (std::size_t k = 0; k < 2 * kVectors; ++k) {
    const LevelAccumulator empty(starts(k), pass);
    for (int i = 0; i < kSumLevels; ++i) {
      hn::Store(held(chains[k].sum[i], empty.sum[i]), di, sums.sum[i] + at + k * half);
    }
    for (int i = 0; i < kProductLevels; ++i) {
      hn::Store(held(chains[k].product[i], empty.product[i]), di, sums.product[i] + at + k * half);
    }
  }
}

template <class Storage>
bool sum(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen) {
  return with_pairs(terms, [&]<Pairs kPairs>() HWY_ATTR {
    bool all = true;
    for (std::size_t at = 0; at < kLanes; at += kVectors * hn::Lanes(FloatTag())) {
      all = sum_strip<kPairs>(terms, at, windows, sums, seen) && all;
    }
    return all;
  });
}
template <class Storage>
void sum_levels(const Rows<Storage>& terms, const LaneLevels& levels, int pass, LaneLevelSums& sums) {
  with_pairs(terms, [&]<Pairs kPairs>() HWY_ATTR {
    for (std::size_t at = 0; at < kLanes; at += kVectors * hn::Lanes(FloatTag())) {
      sum_levels_strip<kPairs>(terms, at, levels, pass, sums);
    }
  });
}
#endif

const PerStorage<LaneLoops>& lane_tables() {
  static constexpr PerStorage<LaneLoops> kTables{{sum<float16>, sum_levels<float16>},
                                                 {sum<bfloat16>, sum_levels<bfloat16>},
                                                 {sum<float>, sum_levels<float>},
                                                 {}};
  return kTables;
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {
HWY_EXPORT(lane_tables);
}

const PerStorage<LaneLoops>& lane_tables() { return HWY_DISPATCH_TABLE(lane_tables)[target_index()](); }

void LaneWindows::set(std::size_t lane, const Window& window) {
  sum_start[lane] = window.sum_start;
  high_start[lane] = window.high_start;
  low_start[lane] = window.low_start;
  a_low[lane] = window.a_low;
  a_high[lane] = window.a_high;
  b_low[lane] = window.b_low;
  b_high[lane] = window.b_high;
}

void LaneLevels::set(std::size_t lane, const Levels& levels) {
  sum_start[lane] = levels.sum_start;
  product_start[lane] = levels.product_start;
  passes = std::max(passes, levels.passes);
}

LevelSums LaneLevelSums::of(std::size_t lane) const {
  LevelSums sums;
  for (int i = 0; i < kSumLevels; ++i) sums.sum[i] = sum[i][lane];
  for (int i = 0; i < kProductLevels; ++i) sums.product[i] = product[i][lane];
  return sums;
}

}  // namespace syncbn::kernels
#endif
