// SPDX-License-Identifier: Apache-2.0
#include "kernels/sum_double_lanes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sum_double_lanes.cpp"
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
std::size_t lanes() { return 1; }
void sum(const Rows<double>&, const DoubleLaneStarts&, DoubleLaneSums&) {}
#else
constexpr std::size_t kAhead = 4096 / sizeof(double), kRowsAhead = 32;  // prefetch distances

std::size_t lanes() { return hn::Lanes(DoubleTag()); }

// Calls take(x, y) for all vectors of terms.
template <Pairs kPairs, class Take>
HWY_INLINE void for_each_vector(const Rows<double>& terms, const Take& take) {
  const std::size_t lanes = hn::Lanes(DoubleTag()), n = terms.n;
  for (std::size_t row = 0; row < terms.rows; ++row) {
    const std::size_t begin = row * terms.stride;
    const auto read_and_take = [&](std::size_t i, const auto& read) HWY_ATTR {
      const std::size_t here = i + kAhead;
      const std::size_t ahead = begin + (n <= lanes ? kRowsAhead * terms.stride
                                         : here < n ? here
                                                    : here - n + terms.stride);
      hwy::Prefetch(terms.a + ahead);
      if constexpr (kPairs != Pairs::squares) hwy::Prefetch(terms.b + ahead);
      if constexpr (kPairs == Pairs::rectified) hwy::Prefetch(terms.mask + ahead);
      Double x = read(terms.a + begin + i);
      if constexpr (kPairs == Pairs::rectified) x = where_passes(read(terms.mask + begin + i), x);
      if constexpr (kPairs == Pairs::squares) {
        take(x, x);
      } else {
        take(x, read(terms.b + begin + i));
      }
    };
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      read_and_take(i, [](const double* p) HWY_ATTR { return load(p); });
    }
    if (i < n) {
      read_and_take(i, [some = n - i](const double* p) HWY_ATTR { return load_some(p, some); });
    }
  }
}

template <Pairs kPairs>
void sum_of(const Rows<double>& terms, const DoubleLaneStarts& starts, DoubleLaneSums& sums) {
  static_assert(kSumLevels == 2 && kProductLevels == 4);
  const DoubleTag dd;
  const hn::RebindToUnsigned<DoubleTag> du;
  const hn::RebindToSigned<DoubleTag> di;
  const LevelAccumulator empty(LevelStarts(hn::Load(dd, starts.sum), hn::Load(dd, starts.product)), 0);
  Double sum0 = empty.sum[0], sum1 = empty.sum[1];
  Double product0 = empty.product[0], product1 = empty.product[1], product2 = empty.product[2],
         product3 = empty.product[3];
  using DoubleRange = BitRange<decltype(du)>;
  DoubleRange a = DoubleRange::none(), b = DoubleRange::none();
  for_each_vector<kPairs>(terms, [&](Double x, Double y) HWY_ATTR {
    a.see(x);
    if constexpr (kPairs != Pairs::squares) b.see(y);
    // The window is such that a term's last level takes all that is left of the term. The rest of a product
    // is too small for the highest level.
    const Double xy = hn::Mul(x, y), rest = hn::MulSub(x, y, xy);
    sum1 = hn::Add(sum1, take(sum0, x));
    product2 = hn::Add(product2, take(product1, take(product0, xy)));
    product3 = hn::Add(product3, take(product2, take(product1, rest)));
  });
  const auto store = [&](Double level, Double start, std::int64_t* to) HWY_ATTR {
    hn::Store(hn::Sub(hn::BitCast(di, level), hn::BitCast(di, start)), di, to);
  };
  store(sum0, empty.sum[0], sums.sum[0]);
  store(sum1, empty.sum[1], sums.sum[1]);
  store(product0, empty.product[0], sums.product[0]);
  store(product1, empty.product[1], sums.product[1]);
  store(product2, empty.product[2], sums.product[2]);
  store(product3, empty.product[3], sums.product[3]);
  hn::Store(a.max, du, sums.a_max);
  hn::Store(a.min_minus_one, du, sums.a_min_minus_one);
  hn::Store(b.max, du, sums.b_max);
  hn::Store(b.min_minus_one, du, sums.b_min_minus_one);
}

void sum(const Rows<double>& terms, const DoubleLaneStarts& starts, DoubleLaneSums& sums) {
  with_pairs(terms, [&]<Pairs kPairs>() HWY_ATTR { sum_of<kPairs>(terms, starts, sums); });
}
#endif

const DoubleLoops& double_loops() {
  static constexpr DoubleLoops kLoops{lanes, sum};
  return kLoops;
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {
HWY_EXPORT(double_loops);
}

const DoubleLoops& double_loops() { return HWY_DISPATCH_TABLE(double_loops)[target_index()](); }

}  // namespace syncbn::kernels
#endif
