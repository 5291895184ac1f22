// The arithmetic of the exact sums, on vectors: what the kernels for rows and for lanes share. Included once
// per target, after <hwy/highway.h>.

#if defined(SYNCBN_KERNELS_EXACT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_KERNELS_EXACT_INL_H_
#undef SYNCBN_KERNELS_EXACT_INL_H_
#else
#define SYNCBN_KERNELS_EXACT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>

#include "kernels/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR

using FloatTag = hn::ScalableTag<float>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using DoubleTag = hn::ScalableTag<double>;
using Float = hn::Vec<FloatTag>;
using Bits = hn::Vec<BitsTag>;
using Double = hn::Vec<DoubleTag>;

// Σa and Σa·b of each lane.
struct Accumulator {
  Double sum, high, low;

  // Written out: to implicit ones GCC gives no target's instructions, and NEON's vectors have constructors.
  HWY_INLINE Accumulator() {}
  HWY_INLINE Accumulator(Double sum_start, Double high_start, Double low_start)
      : sum(sum_start), high(high_start), low(low_start) {}

  // The product x·y is exact in double. t = fma(x, y, H) keeps its upper part, d = t - H is exact (both in
  // one binade), and fms(x, y, d) is the rest, exact again (Dekker's splitting; Ogita, Rump and Oishi 2005).
  HWY_INLINE void add(Double x, Double y) {
    sum = hn::MulAdd(x, hn::Set(DoubleTag(), 1.0), sum);
    const Double before = high;
    high = hn::MulAdd(x, y, high);
    low = hn::Add(low, hn::MulSub(x, y, hn::Sub(high, before)));
  }
};
// Two of them for a vector of floats.
HWY_INLINE void add(Accumulator* pair, Float x, Float y) {
  const DoubleTag dd;
  const hn::Half<FloatTag> dh;
  pair[0].add(hn::PromoteTo(dd, hn::LowerHalf(dh, x)), hn::PromoteTo(dd, hn::LowerHalf(dh, y)));
  pair[1].add(hn::PromoteTo(dd, hn::UpperHalf(dh, x)), hn::PromoteTo(dd, hn::UpperHalf(dh, y)));
}

HWY_INLINE Bits magnitude(Float f) {
  return hn::And(hn::BitCast(BitsTag(), f), hn::Set(BitsTag(), 0x7fffffffu));
}

// The largest |bits| and the smallest nonzero ones, minus one. Integers order |values|: Inf and NaN are
// simply the largest. Zero minus one is the largest too, so it is no minimum.
struct Range {
  Bits max, min_minus_one;

  HWY_INLINE Range() {}  // as Accumulator's
  HWY_INLINE Range(Bits largest, Bits smallest_minus_one) : max(largest), min_minus_one(smallest_minus_one) {}
  static HWY_INLINE Range none() { return {hn::Zero(BitsTag()), hn::Set(BitsTag(), 0xffffffffu)}; }
  HWY_INLINE void see(Float f) {
    const Bits bits = magnitude(f);
    max = hn::Max(max, bits);
    min_minus_one = hn::Min(min_minus_one, hn::Sub(bits, hn::Set(BitsTag(), 1u)));
  }
};

// Lets pass what lies in a window of |bits|, as zero what does not, and keeps the largest that lies below.
struct Sieve {
  Bits low, width, left;

  HWY_INLINE Sieve() {}  // as Accumulator's
  HWY_INLINE Sieve(Bits lowest, Bits wide, Bits below) : low(lowest), width(wide), left(below) {}
  static HWY_INLINE Sieve of(Bits low, Bits width) { return {low, width, hn::Zero(BitsTag())}; }
  HWY_INLINE Float inside(Float f) {
    const Bits bits = magnitude(f);
    left = hn::Max(left, hn::IfThenElseZero(hn::Lt(bits, low), bits));
    return hn::IfThenElseZero(hn::RebindMask(FloatTag(), hn::Lt(hn::Sub(bits, low), width)), f);
  }
};

#endif

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
