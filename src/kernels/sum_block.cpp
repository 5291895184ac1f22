// SPDX-License-Identifier: Apache-2.0
#include "kernels/sum_block.h"

#include <bit>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sum_block.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // includes this file once per target, so before highway.h
#include <hwy/highway.h>

#include "kernels/exact-inl.h"
#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Never dispatched to: without vector registers the plain loops run.
std::size_t step() { return 1; }
template <class Storage>
BlockSum sum(const Rows<Storage>&, const Window&) {
  return {};
}
template <class Storage>
LevelSums sum_levels(const Rows<Storage>&, const Levels&, int) {
  return {};
}
#else
// With 32 registers four accumulators a sum hide the latency of the additions. With 16 registers four spill,
// and two are faster (AVX2, from L2: 10 instead of 6.8 GB/s a core).
constexpr std::size_t kChains = HWY_MAX_BYTES == 64 || HWY_TARGET == HWY_NEON ? 4 : 2;
constexpr std::size_t kVectors = kChains / 2;  // of floats, in one step
constexpr std::size_t kAhead = 4096;           // bytes that are fetched ahead: doubles the speed from memory

std::size_t step() { return kVectors * hn::Lanes(FloatTag()); }

// The ends of rows, side by side.
struct RowEnds {
  float values[(kMaxAdditions + 1) * HWY_MAX_BYTES / sizeof(float)];
  HWY_INLINE RowEnds() {}
  HWY_INLINE void put(Float end, std::size_t at) { hn::StoreU(end, FloatTag(), values + at); }
};

// Calls take(v, x, y) for all vectors of terms, v < kVectors by turns, each a constant.
template <Pairs kPairs, bool kFetch, class Storage, class Take>
HWY_INLINE void for_each_vector(const Rows<Storage>& terms, const Take& take) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  constexpr std::integral_constant<std::size_t, kVectors - 1> kLast;
  const std::size_t n = terms.n;
  RowEnds a_ends, b_ends;
  std::size_t ends = 0;
  for (std::size_t row = 0; row < terms.rows; ++row) {
    const Storage* a = terms.a + row * terms.stride;
    const Storage* b = terms.b + row * terms.stride;
    const Storage* mask = kPairs == Pairs::rectified ? terms.mask + row * terms.stride : nullptr;
    const auto take_whole = [&](auto v, std::size_t i) HWY_ATTR {
      if constexpr (kPairs == Pairs::squares) {
        take(v, whole(a + i), whole(a + i));
      } else if constexpr (kPairs == Pairs::products) {
        take(v, whole(a + i), whole(b + i));
      } else {
        take(v, InRegister(where_passes(load(mask + i), load(a + i))), whole(b + i));
      }
    };
    std::size_t i = 0;
    for (; i + kVectors * lanes <= n; i += kVectors * lanes) {
      const std::size_t here = i + kAhead / sizeof(Storage);
      const std::size_t ahead = here < n ? here : here - n + terms.stride;
      for_each_index<kVectors>([&](auto v) HWY_ATTR {
        if constexpr (kFetch) {
          hwy::Prefetch(a + ahead + v * lanes);
          if constexpr (kPairs != Pairs::squares) hwy::Prefetch(b + ahead + v * lanes);
          if constexpr (kPairs == Pairs::rectified) hwy::Prefetch(mask + ahead + v * lanes);
        }
        take_whole(v, i + v * lanes);
      });
    }
    if (kVectors > 1 && i + lanes <= n) {
      take_whole(std::integral_constant<std::size_t, 0>(), i);
      i += lanes;
    }
    if (i == n) continue;
    Float end = load_some(a + i, n - i);
    if constexpr (kPairs == Pairs::rectified) end = where_passes(load_some(mask + i, n - i), end);
    a_ends.put(end, ends);
    if constexpr (kPairs != Pairs::squares) b_ends.put(load_some(b + i, n - i), ends);
    ends += n - i;
  }
  if (ends == 0) return;
  a_ends.put(hn::Zero(FloatTag()), ends);  // after the last end
  if constexpr (kPairs != Pairs::squares) b_ends.put(hn::Zero(FloatTag()), ends);
  // No more vectors than rows. So the last accumulators, which take none of the single vectors above, have as
  // many additions left.
  for (std::size_t i = 0; i < ends; i += lanes) {
    take(kLast, whole(a_ends.values + i), whole((kPairs == Pairs::squares ? a_ends : b_ends).values + i));
  }
}

// What accumulators that began at `start` hold together, as an integer; `part` is one of a chain's. Their
// bits are added up modulo 2^64, and the starts' bits taken away at the end.
template <class Chain, class Part>
HWY_INLINE std::int64_t held(const Chain (&chains)[kChains], double start, const Part& part) {
  const hn::RebindToUnsigned<DoubleTag> du;
  auto sum = hn::BitCast(du, part(chains[0]));
  for_each_index<kChains - 1>([&](auto k)
                                  HWY_ATTR { sum = hn::Add(sum, hn::BitCast(du, part(chains[k + 1]))); });
  // Halved first: GCC's reduction of 512 bits adds signed numbers, which must not overflow even where the
  // block did not fit and its sums mean nothing.
  const hn::Half<decltype(du)> duh;
  const auto halved = hn::Add(hn::LowerHalf(duh, sum), hn::UpperHalf(duh, sum));
  const std::uint64_t starts = kChains * hn::Lanes(du) * std::bit_cast<std::uint64_t>(start);
  return static_cast<std::int64_t>(hn::GetLane(hn::SumOfLanes(duh, halved)) - starts);
}

template <Pairs kPairs, class Storage>
BlockSum sum_of(const Rows<Storage>& terms, const Window& window) {
  const BitsTag du;
  const auto start = [](double at) HWY_ATTR { return hn::Set(DoubleTag(), at); };
  Accumulator chains[kChains];
  for_each_index<kChains>([&](auto k) HWY_ATTR {
    chains[k] = {start(window.sum_start), start(window.high_start), start(window.low_start)};
  });
  Range a = Range::none(), b = Range::none();
  for_each_vector<kPairs, true>(terms, [&](auto v, const auto& x, const auto& y) HWY_ATTR {
    a.see(x.all());
    if constexpr (kPairs != Pairs::squares) b.see(y.all());
    for_each_index<2>([&](auto k) HWY_ATTR { chains[2 * v + k].add(x.half(k), y.half(k)); });
  });
  BlockSum sums{};
  sums.sum = held(chains, window.sum_start, [](const Accumulator& chain) HWY_ATTR { return chain.sum; });
  sums.high = held(chains, window.high_start, [](const Accumulator& chain) HWY_ATTR { return chain.high; });
  sums.low = held(chains, window.low_start, [](const Accumulator& chain) HWY_ATTR { return chain.low; });
  auto outside = a.outside(hn::Set(du, window.a_low), hn::Set(du, window.a_high));
  if constexpr (kPairs != Pairs::squares)
    outside = hn::Or(outside, b.outside(hn::Set(du, window.b_low), hn::Set(du, window.b_high)));
  sums.fits = hn::AllFalse(du, outside);
  if (sums.fits) return sums;
  const auto range = [&](const Range& of) HWY_ATTR -> OperandRange {
    return {hn::GetLane(hn::MaxOfLanes(du, of.max)), hn::GetLane(hn::MinOfLanes(du, of.min_minus_one))};
  };
  sums.a = range(a);
  sums.b = kPairs == Pairs::squares ? sums.a : range(b);
  return sums;
}

template <Pairs kPairs, class Storage>
LevelSums sum_levels_of(const Rows<Storage>& terms, const Levels& levels, int pass) {
  const LevelStarts starts(hn::Set(DoubleTag(), levels.sum_start),
                           hn::Set(DoubleTag(), levels.product_start));
  const LevelAccumulator empty(starts, pass);
  LevelAccumulator chains[kChains];
  for (LevelAccumulator& chain : chains) chain = empty;
  add_on_levels<kPairs>(
      chains, [&](std::size_t) HWY_ATTR { return starts; }, levels.passes, pass,
      [&](const auto& take) HWY_ATTR {
        for_each_vector<kPairs, false>(
            terms, [&](std::size_t v, const auto& x, const auto& y) HWY_ATTR { take(v, x.all(), y.all()); });
      });
  LevelSums sums{};
  for (int i = 0; i < kSumLevels; ++i) {
    sums.sum[i] = held(chains, hn::GetLane(empty.sum[i]),
                       [i](const LevelAccumulator& chain) HWY_ATTR { return chain.sum[i]; });
  }
  for (int i = 0; i < kProductLevels; ++i) {
    sums.product[i] = held(chains, hn::GetLane(empty.product[i]),
                           [i](const LevelAccumulator& chain) HWY_ATTR { return chain.product[i]; });
  }
  return sums;
}

template <class Storage>
BlockSum sum(const Rows<Storage>& terms, const Window& window) {
  return with_pairs(terms, [&]<Pairs kPairs>() HWY_ATTR { return sum_of<kPairs>(terms, window); });
}
template <class Storage>
LevelSums sum_levels(const Rows<Storage>& terms, const Levels& levels, int pass) {
  return with_pairs(terms,
                    [&]<Pairs kPairs>() HWY_ATTR { return sum_levels_of<kPairs>(terms, levels, pass); });
}
#endif

const PerStorage<BlockLoops>& block_tables() {
  static constexpr PerStorage<BlockLoops> kTables{{step, sum<float16>, sum_levels<float16>},
                                                  {step, sum<bfloat16>, sum_levels<bfloat16>},
                                                  {step, sum<float>, sum_levels<float>},
                                                  {}};
  return kTables;
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {
HWY_EXPORT(block_tables);
}

const PerStorage<BlockLoops>& block_tables() { return HWY_DISPATCH_TABLE(block_tables)[target_index()](); }

}  // namespace syncbn::kernels
#endif
