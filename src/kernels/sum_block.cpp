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
// Never dispatched to: without vector registers the reference runs.
std::size_t step() { return 1; }
template <class Storage>
BlockSum sum(const Rows<Storage>&, const Window&, bool) {
  return {};
}
#else
// With 32 registers four accumulators a sum hide the latency of the additions. With 16 registers four spill,
// and two are faster (AVX2, from L2: 10 instead of 6.8 GB/s a core).
constexpr std::size_t kChains = HWY_MAX_BYTES == 64 || HWY_TARGET == HWY_NEON ? 4 : 2;
constexpr std::size_t kVectors = kChains / 2;  // of floats, in one step
constexpr std::size_t kAhead = 4096;           // bytes that are fetched ahead: doubles the speed from memory

std::size_t step() { return kVectors * hn::Lanes(FloatTag()); }

enum class Pairs { squares, products, rectified };

template <Pairs kPairs, bool kMasked, class Storage>
BlockSum sum_of(const Rows<Storage>& terms, const Window& window) {
  const DoubleTag dd;
  const BitsTag du;
  const hn::RebindToSigned<DoubleTag> di;
  const std::size_t lanes = hn::Lanes(FloatTag());

  Accumulator chains[kChains];
  for (Accumulator& chain : chains) {
    chain = {hn::Set(dd, window.sum_start), hn::Set(dd, window.high_start), hn::Set(dd, window.low_start)};
  }
  Range a_range = Range::none(), b_range = Range::none();
  Sieve a_sieve = Sieve::of(hn::Set(du, window.a_low), hn::Set(du, window.a_high - window.a_low));
  Sieve b_sieve = Sieve::of(hn::Set(du, window.b_low), hn::Set(du, window.b_high - window.b_low));
  const auto admit = [](Float f, Range& range, Sieve& sieve) HWY_ATTR {
    if constexpr (kMasked) return sieve.inside(f);
    range.see(f);
    return f;
  };
  // One load feeds the inspection and the conversions: with two, clang 14 falls from 21 to 9 GB/s (AVX-512).
  const auto take = [&](std::size_t v, const Storage* a, const Storage* b, const Storage* mask,
                        const auto& read) HWY_ATTR {
    Float x = read(a);
    if constexpr (kPairs == Pairs::rectified) x = where_passes(read(mask), x);
    x = admit(x, a_range, a_sieve);
    Float y = x;
    if constexpr (kPairs != Pairs::squares) y = admit(read(b), b_range, b_sieve);
    add(chains + 2 * v, x, y);
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
        hwy::Prefetch(a + ahead + v * lanes);
        if constexpr (kPairs != Pairs::squares) hwy::Prefetch(b + ahead + v * lanes);
        if constexpr (kPairs == Pairs::rectified) hwy::Prefetch(mask + ahead + v * lanes);
        take(v, a + j, b + j, at(j), [](const Storage* p) HWY_ATTR { return load(p); });
      }
    }
    const auto rest = [&](std::size_t v) HWY_ATTR {
      if (i >= n) return;
      const std::size_t some = HWY_MIN(lanes, n - i);
      take(v, a + i, b + i, at(i), [some](const Storage* p) HWY_ATTR { return load_some(p, some); });
      i += lanes;
    };
    rest(0);
    if constexpr (kVectors == 2) rest(1);
  }

  const auto held = [&](Double Accumulator::*part, double start) HWY_ATTR {
    const auto first = hn::BitCast(di, hn::Set(dd, start));
    auto sum = hn::Zero(di);
    for (const Accumulator& chain : chains) sum = hn::Add(sum, hn::Sub(hn::BitCast(di, chain.*part), first));
    // Halved first: GCC's reduction of 512 bits adds signed numbers, which must not overflow even where the
    // block did not fit and its sums mean nothing.
    const hn::Half<decltype(di)> dih;
    const auto halved = hn::Add(hn::LowerHalf(dih, sum), hn::UpperHalf(dih, sum));
    return hn::GetLane(hn::SumOfLanes(dih, halved));
  };
  return {held(&Accumulator::sum, window.sum_start),
          held(&Accumulator::high, window.high_start),
          held(&Accumulator::low, window.low_start),
          hn::GetLane(hn::MaxOfLanes(du, kMasked ? a_sieve.left : a_range.max)),
          hn::GetLane(hn::MinOfLanes(du, a_range.min_minus_one)),
          hn::GetLane(hn::MaxOfLanes(du, kMasked ? b_sieve.left : b_range.max)),
          hn::GetLane(hn::MinOfLanes(du, b_range.min_minus_one))};
}

template <class Storage>
BlockSum sum(const Rows<Storage>& terms, const Window& window, bool masked) {
  if (terms.mask != nullptr) {
    return (masked ? sum_of<Pairs::rectified, true, Storage>
                   : sum_of<Pairs::rectified, false, Storage>)(terms, window);
  }
  if (terms.a != terms.b) {
    return (masked ? sum_of<Pairs::products, true, Storage>
                   : sum_of<Pairs::products, false, Storage>)(terms, window);
  }
  return (masked ? sum_of<Pairs::squares, true, Storage> : sum_of<Pairs::squares, false, Storage>)(terms,
                                                                                                   window);
}
#endif

BlockSum sum_float(const Rows<float>& terms, const Window& window, bool masked) {
  return sum(terms, window, masked);
}
BlockSum sum_float16(const Rows<float16>& terms, const Window& window, bool masked) {
  return sum(terms, window, masked);
}
BlockSum sum_bfloat16(const Rows<bfloat16>& terms, const Window& window, bool masked) {
  return sum(terms, window, masked);
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {

HWY_EXPORT(step);
HWY_EXPORT(sum_float);
HWY_EXPORT(sum_float16);
HWY_EXPORT(sum_bfloat16);

BlockSum dispatch(const Rows<float>& terms, const Window& window, bool masked) {
  return HWY_DISPATCH_TABLE(sum_float)[target_index()](terms, window, masked);
}
BlockSum dispatch(const Rows<float16>& terms, const Window& window, bool masked) {
  return HWY_DISPATCH_TABLE(sum_float16)[target_index()](terms, window, masked);
}
BlockSum dispatch(const Rows<bfloat16>& terms, const Window& window, bool masked) {
  return HWY_DISPATCH_TABLE(sum_bfloat16)[target_index()](terms, window, masked);
}

}  // namespace

std::size_t block_step() { return HWY_DISPATCH_TABLE(step)[target_index()](); }

template <class Storage>
BlockSum sum_block(const Rows<Storage>& terms, const Window& window) {
  return dispatch(terms, window, false);
}
template <class Storage>
BlockSum sum_block_masked(const Rows<Storage>& terms, const Window& window) {
  return dispatch(terms, window, true);
}
template BlockSum sum_block(const Rows<float>&, const Window&);
template BlockSum sum_block(const Rows<float16>&, const Window&);
template BlockSum sum_block(const Rows<bfloat16>&, const Window&);
template BlockSum sum_block_masked(const Rows<float>&, const Window&);
template BlockSum sum_block_masked(const Rows<float16>&, const Window&);
template BlockSum sum_block_masked(const Rows<bfloat16>&, const Window&);

}  // namespace syncbn::kernels
#endif
