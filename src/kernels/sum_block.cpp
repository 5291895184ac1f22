// SPDX-License-Identifier: Apache-2.0
#include "kernels/sum_block.h"

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

// Calls take(v, x, y) for all vectors of terms, v < kVectors by turns.
template <Pairs kPairs, bool kFetch, class Storage, class Take>
HWY_INLINE void for_each_vector(const Rows<Storage>& terms, const Take& take) {
  const std::size_t lanes = hn::Lanes(FloatTag());
  // One load feeds the inspection and the conversions: with two, clang 14 falls from 21 to 9 GB/s (AVX-512).
  const auto read_and_take = [&](std::size_t v, const Storage* a, const Storage* b, const Storage* mask,
                                 const auto& read) HWY_ATTR {
    Float x = read(a);
    if constexpr (kPairs == Pairs::rectified) x = where_passes(read(mask), x);
    if constexpr (kPairs == Pairs::squares) {
      take(v, x, x);
    } else {
      take(v, x, read(b));
    }
  };
  const std::size_t n = terms.n;
  for (std::size_t row = 0; row < terms.rows; ++row) {
    const Storage* a = terms.a + row * terms.stride;
    const Storage* b = terms.b + row * terms.stride;
    const Storage* mask = kPairs == Pairs::rectified ? terms.mask + row * terms.stride : nullptr;
    const auto at = [&](std::size_t i) { return kPairs == Pairs::rectified ? mask + i : nullptr; };
    std::size_t i = 0;
    for (; i + kVectors * lanes <= n; i += kVectors * lanes) {
      const std::size_t here = i + kAhead / sizeof(Storage);
      const std::size_t ahead = here < n ? here : here - n + terms.stride;
      for (std::size_t v = 0; v < kVectors; ++v) {
        const std::size_t j = i + v * lanes;
        if constexpr (kFetch) {
          hwy::Prefetch(a + ahead + v * lanes);
          if constexpr (kPairs != Pairs::squares) hwy::Prefetch(b + ahead + v * lanes);
          if constexpr (kPairs == Pairs::rectified) hwy::Prefetch(mask + ahead + v * lanes);
        }
        read_and_take(v, a + j, b + j, at(j), [](const Storage* p) HWY_ATTR { return load(p); });
      }
    }
    const auto rest = [&](std::size_t v) HWY_ATTR {
      if (i >= n) return;
      const std::size_t some = HWY_MIN(lanes, n - i);
      read_and_take(v, a + i, b + i, at(i), [some](const Storage* p) HWY_ATTR { return load_some(p, some); });
      i += lanes;
    };
    rest(0);
    if constexpr (kVectors == 2) rest(1);
  }
}

// What accumulators that began at `start` hold together, as an integer; `part` is one of a chain's.
template <class Chain, class Part>
HWY_INLINE std::int64_t held(const Chain (&chains)[kChains], Double start, const Part& part) {
  const hn::RebindToSigned<DoubleTag> di;
  const auto first = hn::BitCast(di, start);
  auto sum = hn::Zero(di);
  for (const Chain& chain : chains) sum = hn::Add(sum, hn::Sub(hn::BitCast(di, part(chain)), first));
  // Halved first: GCC's reduction of 512 bits adds signed numbers, which must not overflow even where the
  // block did not fit and its sums mean nothing.
  const hn::Half<decltype(di)> dih;
  const auto halved = hn::Add(hn::LowerHalf(dih, sum), hn::UpperHalf(dih, sum));
  return hn::GetLane(hn::SumOfLanes(dih, halved));
}

template <Pairs kPairs, class Storage>
BlockSum sum_of(const Rows<Storage>& terms, const Window& window) {
  const BitsTag du;
  const auto start = [](double at) HWY_ATTR { return hn::Set(DoubleTag(), at); };
  Accumulator chains[kChains];
  for (Accumulator& chain : chains) {
    chain = {start(window.sum_start), start(window.high_start), start(window.low_start)};
  }
  Range a = Range::none(), b = Range::none();
  for_each_vector<kPairs, true>(terms, [&](std::size_t v, Float x, Float y) HWY_ATTR {
    a.see(x);
    if constexpr (kPairs != Pairs::squares) b.see(y);
    for_each_half(x, y,
                  [&](std::size_t half, Double xs, Double ys) HWY_ATTR { chains[2 * v + half].add(xs, ys); });
  });
  const auto sum = [](const Accumulator& chain) HWY_ATTR { return chain.sum; };
  const auto high = [](const Accumulator& chain) HWY_ATTR { return chain.high; };
  const auto low = [](const Accumulator& chain) HWY_ATTR { return chain.low; };
  return {held(chains, start(window.sum_start), sum),       held(chains, start(window.high_start), high),
          held(chains, start(window.low_start), low),       hn::GetLane(hn::MaxOfLanes(du, a.max)),
          hn::GetLane(hn::MinOfLanes(du, a.min_minus_one)), hn::GetLane(hn::MaxOfLanes(du, b.max)),
          hn::GetLane(hn::MinOfLanes(du, b.min_minus_one))};
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
      [&](const auto& take) HWY_ATTR { for_each_vector<kPairs, false>(terms, take); });
  LevelSums sums{};
  for (int i = 0; i < kSumLevels; ++i) {
    sums.sum[i] =
        held(chains, empty.sum[i], [i](const LevelAccumulator& chain) HWY_ATTR { return chain.sum[i]; });
  }
  for (int i = 0; i < kProductLevels; ++i) {
    sums.product[i] = held(chains, empty.product[i],
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
