// SPDX-License-Identifier: Apache-2.0

// The vector arithmetic of the exact sums, which the kernels for rows and for lanes share. Included once per
// target, after <hwy/highway.h>.

#if defined(SYNCBN_KERNELS_EXACT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_KERNELS_EXACT_INL_H_
#undef SYNCBN_KERNELS_EXACT_INL_H_
#else
#define SYNCBN_KERNELS_EXACT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "kernels/levels.h"
#include "kernels/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR

// Squares: a = b. Products: a and b differ. Rectified: a is under a ReLU mask.
enum class Pairs { squares, products, rectified };
// Calls body.operator()<pairs>() with the kind of the terms.
template <class Storage, class Body>
HWY_INLINE auto with_pairs(const Rows<Storage>& terms, const Body& body) {
  if (terms.mask != nullptr) return body.template operator()<Pairs::rectified>();
  return terms.a != terms.b ? body.template operator()<Pairs::products>()
                            : body.template operator()<Pairs::squares>();
}

using FloatTag = hn::ScalableTag<float>;
using BitsTag = hn::RebindToUnsigned<FloatTag>;
using DoubleTag = hn::ScalableTag<double>;
using Float = hn::Vec<FloatTag>;
using Bits = hn::Vec<BitsTag>;
using Double = hn::Vec<DoubleTag>;

// Σa and Σa·b of each lane.
struct Accumulator {
  Double sum, high, low;

  // Constructors are written out: GCC compiles implicit ones without the target's instructions, and NEON's
  // vectors have constructors.
  HWY_INLINE Accumulator() {}
  HWY_INLINE Accumulator(Double sum_start, Double high_start, Double low_start)
      : sum(sum_start), high(high_start), low(low_start) {}

  // The product x·y is exact in double. t = fma(x, y, H) keeps its upper part. d = t - H is exact, since t
  // and H lie in one binade. fms(x, y, d) is the rest, exact again (Dekker's splitting; Ogita, Rump, Oishi
  // 2005).
  HWY_INLINE void add(Double x, Double y) {
    sum = hn::MulAdd(x, hn::Set(DoubleTag(), 1.0), sum);
    const Double before = high;
    high = hn::MulAdd(x, y, high);
    low = hn::Add(low, hn::MulSub(x, y, hn::Sub(high, before)));
  }
};

// The start of the level that is `levels` lower.
HWY_INLINE Double lowered(Double start, int levels) {
  for (; levels > 0; --levels) start = hn::Mul(start, hn::Set(DoubleTag(), kLevelStep));
  return start;
}
// Adds the multiple of the accumulator's unit that is nearest to the term, and returns the rest of the term.
// The rest is exact, as in Accumulator::add.
HWY_INLINE Double take(Double& level, Double term) {
  const Double before = level;
  level = hn::Add(level, term);
  return hn::Sub(term, hn::Sub(level, before));
}

// Starts of the highest levels of the first pass.
struct LevelStarts {
  Double sum, product;

  HWY_INLINE LevelStarts(Double of_sum, Double of_product) : sum(of_sum), product(of_product) {}
};

// Σa and Σa·b of each lane on the levels of one pass.
struct LevelAccumulator {
  Double sum[kSumLevels], product[kProductLevels];

  HWY_INLINE LevelAccumulator() {}  // as Accumulator's
  HWY_INLINE LevelAccumulator(const LevelStarts& starts, int pass) {
    for (int i = 0; i < kSumLevels; ++i) sum[i] = lowered(starts.sum, pass * kSumLevels + i);
    for (int i = 0; i < kProductLevels; ++i) product[i] = lowered(starts.product, pass * kProductLevels + i);
  }
  // Adds x and x·y if there is only one pass.
  HWY_INLINE void add(Double x, Double y) {
    Double xy = hn::Mul(x, y);
    for (Double& level : sum) x = take(level, x);
    for (Double& level : product) xy = take(level, xy);
  }
  // Adds the parts of x and x·y that belong to this one of several passes.
  HWY_INLINE void add(Double x, Double y, const LevelStarts& starts, int pass) {
    add_below(sum, starts.sum, pass, x);
    add_below(product, starts.product, pass, hn::Mul(x, y));
  }

 private:
  // A term halfway between two multiples is rounded to one of them, depending on the accumulator's value. All
  // passes must split a term alike, so each level splits it with an empty accumulator.
  template <int kLevels>
  static HWY_INLINE void add_below(Double (&levels)[kLevels], Double start, int pass, Double term) {
    Double empty = start;
    for (int i = 0; i < (pass + 1) * kLevels; ++i, empty = lowered(empty, 1)) {
      Double level = empty;
      const Double left = take(level, term);
      const int own = i - pass * kLevels;
      if (own >= 0) levels[own] = hn::Add(levels[own], hn::Sub(term, left));
      term = left;
    }
  }
};

// Calls body(i) for i < kCount, each a constant: GCC keeps an array in registers only if it sees no other
// index than constants before it unrolls loops.
template <std::size_t kCount, class Body>
HWY_INLINE void for_each_index(const Body& body) {
  [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) HWY_ATTR {
    (body(std::integral_constant<std::size_t, kIndex>()), ...);
  }
  (std::make_index_sequence<kCount>());
}

// A vector of terms in a register, or in memory. Converting from memory takes one operation a half, from a
// register two or three (x86). clang finds this by itself from one load; with two it takes 2.7 times as long
// (clang 14, AVX-512).
struct InRegister {
  Float value;
  HWY_INLINE explicit InRegister(Float from) : value(from) {}
  HWY_INLINE Float all() const { return value; }
  HWY_INLINE Double half(std::size_t k) const {
    const hn::Half<FloatTag> dh;
    return hn::PromoteTo(DoubleTag(), k == 0 ? hn::LowerHalf(dh, value) : hn::UpperHalf(dh, value));
  }
};
struct InMemory {
  const float* at;
  HWY_INLINE explicit InMemory(const float* from) : at(from) {}
  HWY_INLINE Float all() const { return hn::LoadU(FloatTag(), at); }
  HWY_INLINE Double half(std::size_t k) const {
    return hn::PromoteTo(DoubleTag(), hn::LoadU(hn::Half<FloatTag>(), at + k * hn::Lanes(DoubleTag())));
  }
};
#if HWY_COMPILER_GCC_ACTUAL
HWY_INLINE InMemory whole(const float* p) { return InMemory(p); }
#endif
template <class Storage>
HWY_INLINE InRegister whole(const Storage* p) {
  return InRegister(load(p));
}

HWY_INLINE Bits magnitude(Float f) {
  return hn::And(hn::BitCast(BitsTag(), f), hn::Set(BitsTag(), 0x7fffffffu));
}
// The finite elements; zero in place of the others.
HWY_INLINE Float finite_or_zero(Float f) {
  const auto finite = hn::Lt(magnitude(f), hn::Set(BitsTag(), kInfinityBits));
  return hn::IfThenElseZero(hn::RebindMask(FloatTag(), finite), f);
}

// Makes one pass over all terms. for_each(take) calls take(v, x, y) for vectors of terms. A vector of floats
// has two chains of doubles; starts(k) are the starts of chain k.
template <Pairs kPairs, std::size_t kCount, class Starts, class ForEach>
HWY_INLINE void add_on_levels(LevelAccumulator (&chains)[kCount], const Starts& starts, int passes, int pass,
                              const ForEach& for_each) {
  const auto add_by = [&](const auto& add) HWY_ATTR {
    for_each([&](std::size_t v, Float x, Float y) HWY_ATTR {
      x = finite_or_zero(x);
      y = kPairs == Pairs::squares ? x : finite_or_zero(y);
      for (std::size_t k = 0; k < 2; ++k) add(2 * v + k, InRegister(x).half(k), InRegister(y).half(k));
    });
  };
  if (passes == 1) {
    add_by([&](std::size_t k, Double x, Double y) HWY_ATTR { chains[k].add(x, y); });
  } else {
    add_by([&](std::size_t k, Double x, Double y) HWY_ATTR { chains[k].add(x, y, starts(k), pass); });
  }
}

// The largest |bits| and the smallest nonzero |bits| minus one, in each lane. |bits| as integers are in the
// order of |values|; Inf and NaN are the largest. Zero minus one is the largest integer, so a zero is never
// the minimum.
template <class Tag>
struct BitRange {
  using Integer = hn::TFromD<Tag>;
  hn::Vec<Tag> max, min_minus_one;

  HWY_INLINE BitRange() {}  // as Accumulator's
  HWY_INLINE BitRange(hn::Vec<Tag> largest, hn::Vec<Tag> smallest_minus_one)
      : max(largest), min_minus_one(smallest_minus_one) {}
  static HWY_INLINE BitRange none() { return {hn::Zero(Tag()), hn::Set(Tag(), ~Integer{0})}; }
  template <class V>
  HWY_INLINE void see(V value) {
    const auto bits = hn::And(hn::BitCast(Tag(), value), hn::Set(Tag(), ~Integer{0} >> 1));
    max = hn::Max(max, bits);
    min_minus_one = hn::Min(min_minus_one, hn::Sub(bits, hn::Set(Tag(), Integer{1})));
  }
  // The lanes with a nonzero element outside of [low, high).
  HWY_INLINE hn::Mask<Tag> outside(hn::Vec<Tag> low, hn::Vec<Tag> high) const {
    // Where nothing is nonzero the minimum plus one is 0, below all windows: no misfit.
    const auto below = hn::And(hn::Lt(hn::Add(min_minus_one, hn::Set(Tag(), Integer{1})), low),
                               hn::Ne(max, hn::Zero(Tag())));
    return hn::Or(below, hn::Not(hn::Lt(max, high)));
  }
};
using Range = BitRange<BitsTag>;

#endif

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
