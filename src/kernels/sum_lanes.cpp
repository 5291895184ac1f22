#include "kernels/sum_lanes.h"

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
// Never dispatched to: without vector registers the reference runs.
template <class Storage>
bool sum_lanes_of(const Rows<Storage>&, const LaneWindows&, LaneSums&, LaneRanges&, bool) {
  return false;
}
#else
// Vectors of floats side by side: as many as the registers hold accumulators for, three doubles a float.
constexpr std::size_t kVectors = HWY_MAX_BYTES == 64 || HWY_TARGET == HWY_NEON ? 2 : 1;

// Rows that are fetched ahead. Into the second cache: in the first, rows that are far apart fall into few
// sets and drive each other out (512 channels: 24 instead of 38 GB/s, AVX-512, two threads).
constexpr std::size_t kRowsAhead = 32;
HWY_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }

enum class Pairs { squares, products, rectified };

// What a chain of doubles holds, as integers.
HWY_INLINE hn::Vec<hn::RebindToSigned<DoubleTag>> held(Double chain, const double* start) {
  const hn::RebindToSigned<DoubleTag> di;
  return hn::Sub(hn::BitCast(di, chain), hn::BitCast(di, hn::Load(DoubleTag(), start)));
}

// Lanes [at, at + kVectors vectors) of the group.
template <Pairs kPairs, bool kMasked, class Storage>
HWY_INLINE bool sum_strip(const Rows<Storage>& terms, std::size_t at, const LaneWindows& windows,
                          LaneSums& sums, LaneRanges& seen) {
  const DoubleTag dd;
  const BitsTag du;
  const hn::RebindToSigned<DoubleTag> di;
  const hn::RebindToSigned<BitsTag> di32;
  const hn::Half<decltype(di32)> di32h;
  const std::size_t lanes = hn::Lanes(FloatTag());
  const std::size_t half = hn::Lanes(dd);

  Accumulator chains[2 * kVectors];
  Range a_range[kVectors], b_range[kVectors];
  Sieve a_sieve[kVectors], b_sieve[kVectors];
  for (std::size_t k = 0; k < 2 * kVectors; ++k) {
    const std::size_t c = at + k * half;
    chains[k] = {hn::Load(dd, windows.sum_start + c), hn::Load(dd, windows.high_start + c),
                 hn::Load(dd, windows.low_start + c)};
  }
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t c = at + v * lanes;
    a_range[v] = b_range[v] = Range::none();
    a_sieve[v] = Sieve::of(hn::Load(du, windows.a_low + c), hn::Load(du, windows.a_width + c));
    b_sieve[v] = Sieve::of(hn::Load(du, windows.b_low + c), hn::Load(du, windows.b_width + c));
  }
  const auto admit = [](Float f, Range& range, Sieve& sieve) HWY_ATTR {
    if constexpr (kMasked) return sieve.inside(f);
    range.see(f);
    return f;
  };

  const Storage* a = terms.a + at;
  const Storage* b = terms.b + at;
  const Storage* mask = kPairs == Pairs::rectified ? terms.mask + at : nullptr;
  const std::size_t stride = terms.stride;
  for (std::size_t row = 0; row < terms.rows; ++row) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t j = v * lanes;
      if constexpr (!kMasked) {
        fetch(a + j + kRowsAhead * stride);
        if constexpr (kPairs != Pairs::squares) fetch(b + j + kRowsAhead * stride);
        if constexpr (kPairs == Pairs::rectified) fetch(mask + j + kRowsAhead * stride);
      }
      Float x = load(a + j);
      if constexpr (kPairs == Pairs::rectified) x = where_passes(load(mask + j), x);
      x = admit(x, a_range[v], a_sieve[v]);
      Float y = x;
      if constexpr (kPairs != Pairs::squares) y = admit(load(b + j), b_range[v], b_sieve[v]);
      add(chains + 2 * v, x, y);
    }
    a += stride;
    b += stride;
    if constexpr (kPairs == Pairs::rectified) mask += stride;
  }

  bool all = true;
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t c = at + v * lanes;
    auto fitting = hn::Set(di32, -1);  // a lane's mask; in a masked pass all fit
    if constexpr (kMasked) {
      hn::Store(a_sieve[v].left, du, seen.a_max + c);
      hn::Store(b_sieve[v].left, du, seen.b_max + c);
    } else {
      const auto outside = [&](const Range& range, const Sieve& window) HWY_ATTR {
        // Where nothing is nonzero the minimum plus one is 0, and the minimum itself above every window.
        const Bits one = hn::Set(du, 1u);
        const auto below =
            hn::And(hn::Lt(hn::Add(range.min_minus_one, one), window.low), hn::Ne(range.max, hn::Zero(du)));
        const auto above = hn::Not(hn::Lt(range.max, hn::Add(window.low, window.width)));
        return hn::Or(below, above);
      };
      auto misfit = outside(a_range[v], a_sieve[v]);
      if constexpr (kPairs != Pairs::squares) misfit = hn::Or(misfit, outside(b_range[v], b_sieve[v]));
      if (!hn::AllFalse(du, misfit)) {
        all = false;
        fitting = hn::BitCast(di32, hn::Not(hn::VecFromMask(du, misfit)));
      }
      hn::Store(a_range[v].max, du, seen.a_max + c);
      hn::Store(a_range[v].min_minus_one, du, seen.a_min_minus_one + c);
      hn::Store(b_range[v].max, du, seen.b_max + c);
      hn::Store(b_range[v].min_minus_one, du, seen.b_min_minus_one + c);
    }
    for (std::size_t k = 0; k < 2; ++k) {
      const std::size_t place = c + k * half;
      const Accumulator& chain = chains[2 * v + k];
      const auto chosen =
          hn::PromoteTo(di, k == 0 ? hn::LowerHalf(di32h, fitting) : hn::UpperHalf(di32h, fitting));
      const auto put = [&](std::int64_t* total, Double part, const double* start) HWY_ATTR {
        auto value = held(part, start + place);
        if constexpr (!kMasked) value = hn::Add(hn::Load(di, total + place), hn::And(value, chosen));
        hn::Store(value, di, total + place);
      };
      put(sums.sum, chain.sum, windows.sum_start);
      put(sums.high, chain.high, windows.high_start);
      put(sums.low, chain.low, windows.low_start);
    }
  }
  return all;
}

template <Pairs kPairs, bool kMasked, class Storage>
bool sum_group(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen) {
  bool all = true;
  for (std::size_t at = 0; at < kLanes; at += kVectors * hn::Lanes(FloatTag())) {
    all = sum_strip<kPairs, kMasked>(terms, at, windows, sums, seen) && all;
  }
  return all;
}

template <class Storage>
bool sum_lanes_of(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen,
                  bool masked) {
  const auto with = [&]<Pairs kPairs>() {
    return (masked ? sum_group<kPairs, true, Storage> : sum_group<kPairs, false, Storage>)(terms, windows,
                                                                                           sums, seen);
  };
  if (terms.mask != nullptr) return with.template operator()<Pairs::rectified>();
  return terms.a != terms.b ? with.template operator()<Pairs::products>()
                            : with.template operator()<Pairs::squares>();
}
#endif

bool sum_lanes_float(const Rows<float>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen,
                     bool masked) {
  return sum_lanes_of(terms, windows, sums, seen, masked);
}
bool sum_lanes_float16(const Rows<float16>& terms, const LaneWindows& windows, LaneSums& sums,
                       LaneRanges& seen, bool masked) {
  return sum_lanes_of(terms, windows, sums, seen, masked);
}
bool sum_lanes_bfloat16(const Rows<bfloat16>& terms, const LaneWindows& windows, LaneSums& sums,
                        LaneRanges& seen, bool masked) {
  return sum_lanes_of(terms, windows, sums, seen, masked);
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {

HWY_EXPORT(sum_lanes_float);
HWY_EXPORT(sum_lanes_float16);
HWY_EXPORT(sum_lanes_bfloat16);

template <class Storage>
bool dispatch(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen,
              bool masked) {
  if constexpr (std::is_same_v<Storage, float>) {
    return HWY_DISPATCH_TABLE(sum_lanes_float)[target_index()](terms, windows, sums, seen, masked);
  } else if constexpr (std::is_same_v<Storage, float16>) {
    return HWY_DISPATCH_TABLE(sum_lanes_float16)[target_index()](terms, windows, sums, seen, masked);
  } else {
    return HWY_DISPATCH_TABLE(sum_lanes_bfloat16)[target_index()](terms, windows, sums, seen, masked);
  }
}

}  // namespace

void LaneWindows::clear(std::size_t lane) {
  sum_start[lane] = high_start[lane] = low_start[lane] = 1.5;
  a_low[lane] = a_width[lane] = b_low[lane] = b_width[lane] = 0;
}

void LaneWindows::set(std::size_t lane, const Window& window) {
  sum_start[lane] = window.sum_start;
  high_start[lane] = window.high_start;
  low_start[lane] = window.low_start;
  a_low[lane] = window.a_low;
  a_width[lane] = window.a_high - window.a_low;
  b_low[lane] = window.b_low;
  b_width[lane] = window.b_high - window.b_low;
}

template <class Storage>
bool sum_lanes(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums, LaneRanges& seen) {
  return dispatch(terms, windows, sums, seen, false);
}
template <class Storage>
void sum_lanes_masked(const Rows<Storage>& terms, const LaneWindows& windows, LaneSums& sums,
                      LaneRanges& left) {
  dispatch(terms, windows, sums, left, true);
}
template bool sum_lanes(const Rows<float>&, const LaneWindows&, LaneSums&, LaneRanges&);
template bool sum_lanes(const Rows<float16>&, const LaneWindows&, LaneSums&, LaneRanges&);
template bool sum_lanes(const Rows<bfloat16>&, const LaneWindows&, LaneSums&, LaneRanges&);
template void sum_lanes_masked(const Rows<float>&, const LaneWindows&, LaneSums&, LaneRanges&);
template void sum_lanes_masked(const Rows<float16>&, const LaneWindows&, LaneSums&, LaneRanges&);
template void sum_lanes_masked(const Rows<bfloat16>&, const LaneWindows&, LaneSums&, LaneRanges&);

}  // namespace syncbn::kernels
#endif
