#include "kernels/sum_block.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sum_block.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // includes this file once per target, so before highway.h
#include <hwy/highway.h>

#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// AVX-512 has 32 registers: four accumulators a sum hide the latency of the additions. With 16 registers four
// spill, and two are faster (AVX2, from L2: 10 instead of 6.8 GB/s a core).
constexpr std::size_t kChains = HWY_MAX_BYTES == 64 ? 4 : 2;

std::size_t accumulators() { return kChains * hn::Lanes(hn::ScalableTag<double>()); }

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Never dispatched to: without vector registers the reference runs.
template <bool kSame, bool kMasked>
BlockSum sum(const float*, const float*, std::size_t, const Window&) {
  return {};
}
#else
template <bool kSame, bool kMasked>
BlockSum sum(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, std::size_t n, const Window& window) {
  const hn::ScalableTag<double> dd;
  const hn::ScalableTag<float> df;
  const hn::Half<decltype(df)> dh;
  const hn::RebindToUnsigned<decltype(df)> du;
  const hn::RebindToSigned<decltype(dd)> di;
  using Double = hn::Vec<decltype(dd)>;
  using Float = hn::Vec<decltype(df)>;
  using Bits = hn::Vec<decltype(du)>;
  const std::size_t lanes = hn::Lanes(df);

  Double total[kChains], high[kChains], low[kChains];
  for (std::size_t k = 0; k < kChains; ++k) {
    total[k] = hn::Set(dd, window.sum_start);
    high[k] = hn::Set(dd, window.high_start);
    low[k] = hn::Set(dd, window.low_start);
  }
  const Bits magnitude = hn::Set(du, 0x7fffffffu);
  const Bits one = hn::Set(du, 1u);
  Bits a_max = hn::Zero(du), b_max = hn::Zero(du);
  Bits a_min = hn::Set(du, 0xffffffffu), b_min = a_min;
  const Bits a_low = hn::Set(du, window.a_low), a_width = hn::Set(du, window.a_high - window.a_low);
  const Bits b_low = hn::Set(du, window.b_low), b_width = hn::Set(du, window.b_high - window.b_low);

  // The product x·y is exact in double. t = fma(x, y, H) keeps its upper part, d = t - H is exact (both in
  // one binade), and fms(x, y, d) is the rest, exact again (Dekker's splitting; Ogita, Rump and Oishi 2005).
  const auto add = [&](std::size_t k, Double x, Double y) HWY_ATTR {
    total[k] = hn::Add(total[k], x);
    const Double t = hn::MulAdd(x, y, high[k]);
    const Double d = hn::Sub(t, high[k]);
    high[k] = t;
    low[k] = hn::Add(low[k], hn::MulSub(x, y, d));
  };
  // Integers order |values|: Inf and NaN are simply the largest. Zero minus one is the largest too, so it is
  // no minimum.
  const auto inspect = [&](Float& f, Bits& max, Bits& min, Bits lowest, Bits width) HWY_ATTR {
    const Bits bits = hn::And(hn::BitCast(du, f), magnitude);
    if constexpr (kMasked) {
      const auto inside = hn::Lt(hn::Sub(bits, lowest), width);
      max = hn::Max(max, hn::IfThenElseZero(hn::Lt(bits, lowest), bits));
      f = hn::IfThenElseZero(hn::RebindMask(df, inside), f);
    } else {
      max = hn::Max(max, bits);
      min = hn::Min(min, hn::Sub(bits, one));
    }
  };
  // One load feeds the inspection and the conversions: with two, clang 14 falls from 21 to 9 GB/s (AVX-512).
  const auto step = [&](std::size_t k, const float* p, const float* q) HWY_ATTR {
    Float x = hn::LoadU(df, p);
    inspect(x, a_max, a_min, a_low, a_width);
    Float y = x;
    if constexpr (!kSame) {
      y = hn::LoadU(df, q);
      inspect(y, b_max, b_min, b_low, b_width);
    }
    add(k, hn::PromoteTo(dd, hn::LowerHalf(dh, x)), hn::PromoteTo(dd, hn::LowerHalf(dh, y)));
    add(k + 1, hn::PromoteTo(dd, hn::UpperHalf(dh, x)), hn::PromoteTo(dd, hn::UpperHalf(dh, y)));
  };

  // Each pair of chains takes one vector of floats; prefetching 2 KB ahead nearly doubles the speed from
  // memory.
  constexpr std::size_t kVectors = kChains / 2;
  const std::size_t group = kVectors * lanes;
  std::size_t i = 0;
  for (; i + group <= n; i += group) {
    hwy::Prefetch(a + i + 512);
    if constexpr (!kSame) hwy::Prefetch(b + i + 512);
    for (std::size_t v = 0; v < kVectors; ++v) step(2 * v, a + i + v * lanes, b + i + v * lanes);
  }
  for (; i < n; i += lanes) {
    HWY_ALIGN float a_rest[HWY_MAX_BYTES / sizeof(float)] = {};
    HWY_ALIGN float b_rest[HWY_MAX_BYTES / sizeof(float)] = {};
    for (std::size_t j = 0; j < lanes && i + j < n; ++j) {
      a_rest[j] = a[i + j];
      b_rest[j] = b[i + j];
    }
    step(0, a_rest, b_rest);
  }

  const auto held = [&](const Double* chains, double start) HWY_ATTR {
    const auto first = hn::BitCast(di, hn::Set(dd, start));
    auto sum = hn::Zero(di);
    for (std::size_t k = 0; k < kChains; ++k) sum = hn::Add(sum, hn::Sub(hn::BitCast(di, chains[k]), first));
    // Halved first: GCC's reduction of 512 bits adds signed numbers, which must not overflow even where the
    // block did not fit and its sums mean nothing.
    const hn::Half<decltype(di)> dih;
    const auto halved = hn::Add(hn::LowerHalf(dih, sum), hn::UpperHalf(dih, sum));
    return hn::GetLane(hn::SumOfLanes(dih, halved));
  };
  return {held(total, window.sum_start),
          held(high, window.high_start),
          held(low, window.low_start),
          hn::GetLane(hn::MaxOfLanes(du, a_max)),
          hn::GetLane(hn::MinOfLanes(du, a_min)),
          hn::GetLane(hn::MaxOfLanes(du, b_max)),
          hn::GetLane(hn::MinOfLanes(du, b_min))};
}
#endif

BlockSum squares(const float* a, const float* b, std::size_t n, const Window& w) {
  return sum<true, false>(a, b, n, w);
}
BlockSum products(const float* a, const float* b, std::size_t n, const Window& w) {
  return sum<false, false>(a, b, n, w);
}
BlockSum masked_squares(const float* a, const float* b, std::size_t n, const Window& w) {
  return sum<true, true>(a, b, n, w);
}
BlockSum masked_products(const float* a, const float* b, std::size_t n, const Window& w) {
  return sum<false, true>(a, b, n, w);
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <bit>
#include <cmath>

namespace syncbn::kernels {

HWY_EXPORT(accumulators);
HWY_EXPORT(squares);
HWY_EXPORT(products);
HWY_EXPORT(masked_squares);
HWY_EXPORT(masked_products);

Window make_window(int max_exponent_a, int max_exponent_b, std::size_t n) {
  const std::size_t chains = HWY_DISPATCH_TABLE(accumulators)[target_index()]();
  const std::size_t additions = n / chains + (n % chains != 0 ? 2 : 0);  // the tail goes to the first chains
  const int l = static_cast<int>(std::bit_width(additions - 1));
  const int span = 27 - l;
  // Not lower than where the window's floor is the smallest normal exponent: subnormals share its unit.
  const int a = std::max(max_exponent_a, span - 126);
  const int b = std::max(max_exponent_b, span - 126);
  const int sum = a + 2 + l;       // |Σa| < 2^(sum - 1)
  const int high = a + b + 3 + l;  // |Σa·b| < 2^(high - 1)
  const int low = high - 51 + l;   // each rest is at most half an ulp of the high part
  const auto floor_bits = [](int exponent) {
    return exponent <= -126 ? 0u : static_cast<std::uint32_t>(exponent + 127) << 23;
  };
  const auto ceiling_bits = [](int exponent) { return static_cast<std::uint32_t>(exponent + 128) << 23; };
  return {
      std::ldexp(1.5, sum), std::ldexp(1.5, high), std::ldexp(1.5, low), sum - 52,       high - 52, low - 52,
      floor_bits(a - span), ceiling_bits(a),       floor_bits(b - span), ceiling_bits(b)};
}

Window half_window() {
  // |a| < 2^16, units of 2^-24 and, for products, 2^-48; up to 2^9 additions an accumulator (NEON).
  constexpr std::uint32_t above = (16u + 127u) << 23;
  return {0x1.8p28, 0x1.8p42, 0x1.8p4, -24, -10, -48, 0, above, 0, above};
}

BlockSum sum_block(const float* a, const float* b, std::size_t n, const Window& window) {
  return (a == b ? HWY_DISPATCH_TABLE(squares) : HWY_DISPATCH_TABLE(products))[target_index()](a, b, n,
                                                                                               window);
}

BlockSum sum_block_masked(const float* a, const float* b, std::size_t n, const Window& window) {
  return (a == b ? HWY_DISPATCH_TABLE(masked_squares) : HWY_DISPATCH_TABLE(masked_products))[target_index()](
      a, b, n, window);
}

}  // namespace syncbn::kernels
#endif
