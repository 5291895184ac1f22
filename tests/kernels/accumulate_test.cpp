// SPDX-License-Identifier: Apache-2.0

// accumulate() on every instruction set and number of threads against one run of the reference, digit for
// digit; the reference itself against GMP.
//
// control: the rows that are left over where several are taken as one not summed; no propagate_carries()
// between the reference's additions; a lane that did fit summed on levels too; one pass less; a lane's sums
// not drained before its window moves; special terms flagged where ReLU's mask is closed, or by another
// channel's mask; in sum_doubles the mask, the low half of a product, or a NaN of b alone left out: each
// makes a test here fail.

#include "kernels/loops.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "exact/exact_sum.h"
#include "kernels/data.h"
#include "kernels/reference.h"
#include "oracle/number.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

using Record = std::vector<std::int64_t>;

struct Dims {
  std::int64_t samples, channels, spatial;
};

std::size_t words_of(const Geometry& g) {
  return static_cast<std::size_t>(g.channels * exact::sum_format(g.dtype).words());
}

class Accumulate : public ::testing::TestWithParam<std::string> {};

template <class Storage>
void expect_reference(const Dims& dims, Layout layout, Kind kind, bool masked, int threads,
                      std::mt19937_64& random) {
  const Geometry g{dtype_of<Storage>, layout, dims.samples, dims.channels, dims.spatial};
  SCOPED_TRACE(std::string(name_of(g.dtype)) + (layout == Layout::channels_last ? " channels-last" : "") +
               " (" + std::to_string(dims.samples) + ", " + std::to_string(dims.channels) + ", " +
               std::to_string(dims.spatial) + "), kind " + std::to_string(static_cast<int>(kind)) +
               (masked ? ", masked, " : ", ") + std::to_string(threads) + " threads");
  const auto count = static_cast<std::size_t>(g.elements());
  const auto dy = draw<Storage>(kind, count, random);
  const auto x =
      draw<Storage>(kind == Kind::special || random() % 2 == 0 ? Kind::ordinary : kind, count, random);
  auto y = draw<Storage>(Kind::ordinary, count, random);
  for (std::size_t i = 0; i < count; i += 5) y[i] = zero<Storage>(i % 2 != 0);
  for (std::size_t i = 3; i < count; i += 50) y[i] = nan<Storage>();
  const Operand forward{dy.data()};
  const Operand gradient{dy.data(), masked ? y.data() : nullptr};
  const auto reference = [&](const Operand& a, const Operand& b) {
    Record records(words_of(g));
    reference::accumulate(a, b, g, whole(g), {records.data(), exact::sum_format(g.dtype)});
    return records;
  };
  const auto accumulated = [&](const Operand& a, const Operand& b) {
    Record records(words_of(g));
    accumulate(loops<Storage>().accumulate, a, b, g, {records.data(), exact::sum_format(g.dtype)}, Use::wire);
    return records;
  };
  set_num_threads(threads);
  // Records of special sums agree in flags and in the digits of the finite terms.
  EXPECT_EQ(reference(forward, forward), accumulated(forward, forward));
  EXPECT_EQ(reference(gradient, {x.data()}), accumulated(gradient, {x.data()}));
  EXPECT_EQ(reference({x.data()}, forward), accumulated({x.data()}, forward));
  set_num_threads(0);
}

TEST_P(Accumulate, IsTheReference) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(1);
  constexpr Dims shapes[] = {{1, 1, 1},     {1, 1, 2},     {3, 5, 7},    {2, 17, 33},
                             {37, 16, 1},   {40, 3, 1},    {2, 2, 700},  {3, 1, 1500},
                             {5, 2, 513},   {2, 1, 2049},  {9, 33, 4},   {1, 2, 20000},
                             {1, 1, 50000}, {20000, 3, 1}, {40, 40, 60}, {0, 3, 5}};
  int k = 0;
  for (const Dims& dims : shapes) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      if (dims.spatial == 1 && layout == Layout::channels_first) continue;  // the same memory
      for (const Kind kind : kKinds) {
        const bool large = dims.samples * dims.channels * dims.spatial > 10000;
        if (large && kind != Kind::any && kind != Kind::special) continue;
        const int threads = 1 + k % 4;
        const bool masked = ++k % 5 != 0;  // six kinds, so each is masked at times
        expect_reference<float>(dims, layout, kind, masked, threads, random);
        expect_reference<float16>(dims, layout, kind, masked, threads, random);
        expect_reference<bfloat16>(dims, layout, kind, masked, threads, random);
        if (dims.samples * dims.spatial < 2000) {
          expect_reference<double>(dims, layout, kind, masked, threads, random);
        }
      }
    }
  }
}

// Channels that jump between far ranges, each at places of its own: windows are missed again and again,
// between blocks that fit.
TEST_P(Accumulate, RangesThatJump) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(2);
  constexpr std::int64_t kPositions = 12000, kChannels = 2;
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    const Geometry g{DType::float32, layout, 1, kChannels, kPositions};
    for (const std::int64_t step : {100, 2048, 5000}) {
      std::vector<float> a(kPositions * kChannels), b(a.size());
      for (std::int64_t c = 0; c < kChannels; ++c) {
        for (std::int64_t position = 0; position < kPositions; ++position) {
          const auto i = static_cast<std::size_t>(g.offset(c, position));
          const int run = static_cast<int>((position + 700 * c) / step + c);
          a[i] = std::ldexp(draw<float>(Kind::ordinary, random), run * 67 % 250 - 125);
          b[i] = std::ldexp(draw<float>(Kind::ordinary, random), run * 41 % 250 - 125);
        }
      }
      for (const auto& pair : {std::pair(&a, &b), std::pair(&a, &a)}) {
        Record expected(words_of(g)), actual(words_of(g));
        reference::accumulate({pair.first->data()}, {pair.second->data()}, g, whole(g),
                              {expected.data(), exact::sum_format(g.dtype)});
        accumulate(loops<float>().accumulate, {pair.first->data()}, {pair.second->data()}, g,
                   {actual.data(), exact::sum_format(g.dtype)}, Use::wire);
        EXPECT_EQ(expected, actual) << "step " << step << ", layout " << static_cast<int>(layout);
      }
    }
  }
}

// Doubles at the edges of their windows: the widest spans that fit and the narrowest that do not, exponents
// whose products are almost too large or too small, significands that fill every level, and one value again
// and again, whose rests add up.
TEST_P(Accumulate, DoublesAtTheEdges) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(4);
  const auto value = [&](int exponent, int kind) {
    const std::uint64_t noise = random();
    double significand = 1 + std::ldexp(static_cast<double>(noise >> 12), -52);
    if (kind == 1) significand = 0x1.fffffffffffffp0;
    if (kind == 2) significand = 0x1.0000000000001p0;
    return std::ldexp(noise % 2 != 0 ? -significand : significand, exponent);
  };
  constexpr int tops[] = {1023, 560,  502,  501,  500,  499,  3,    -438,
                          -439, -440, -441, -442, -474, -475, -500, -1000};
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    for (const Dims& dims : {Dims{1, 3, 40}, Dims{2, 9, 700}}) {
      const Geometry g{DType::float64, layout, dims.samples, dims.channels, dims.spatial};
      for (const int top : tops) {
        for (const int span : {0, 20, 33, 34, 35, 36}) {
          std::vector<double> a(static_cast<std::size_t>(g.elements())), b(a.size());
          const int b_top = tops[random() % std::size(tops)];
          const bool alike = random() % 2 == 0;
          for (std::int64_t c = 0; c < g.channels; ++c) {
            const double first = value(top, 0), second = value(b_top, 0);
            for (std::int64_t position = 0; position < g.positions(); ++position) {
              const auto i = static_cast<std::size_t>(g.offset(c, position));
              const int kind = static_cast<int>(random() % 3);
              a[i] = alike ? first : value(top - (random() % 2 != 0 ? span : 0), kind);
              b[i] = alike ? second : value(b_top - (random() % 2 != 0 ? span : 0), kind);
            }
          }
          for (const auto& pair : {std::pair(&a, &b), std::pair(&a, &a)}) {
            Record expected(words_of(g)), actual(words_of(g));
            reference::accumulate({pair.first->data()}, {pair.second->data()}, g, whole(g),
                                  {expected.data(), exact::sum_format(g.dtype)});
            accumulate(loops<double>().accumulate, {pair.first->data()}, {pair.second->data()}, g,
                       {actual.data(), exact::sum_format(g.dtype)}, Use::wire);
            ASSERT_EQ(expected, actual) << "exponents " << top << " and " << b_top << ", span " << span;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, Accumulate, ::testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return isa.param; });

// So many additions of 47 one bits to one digit that it would overflow without a propagation of carries in
// between.
TEST(Reference, DigitsDoNotOverflow) {
  constexpr std::int64_t kCount = 70000;  // > 2^63 / 2^47
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  const int shift = 23 * exact::kDigitBits;
  const std::vector<double> x(kCount, std::ldexp(0x1p53 - 1, shift + format.unit));
  Record actual(static_cast<std::size_t>(format.words()));
  Record expected = actual;
  reference::accumulate({x.data()}, {x.data()}, {DType::float64, Layout::channels_last, kCount, 1, 1},
                        {0, 1, 0, kCount}, {actual.data(), format});
  exact::add_scaled(expected.data(), kCount, shift + 53);
  exact::add_scaled(expected.data(), -kCount, shift);
  std::int64_t* products = expected.data() + format.sum_digits;  // (2^53 - 1)² = 2^106 - 2^54 + 1
  exact::add_scaled(products, kCount, 2 * shift + 106);
  exact::add_scaled(products, -kCount, 2 * shift + 54);
  exact::add_scaled(products, kCount, 2 * shift);
  exact::Record(expected.data(), format).propagate_carries();
  EXPECT_EQ(expected, actual);
}

// The same where no product is added, because every b is NaN.
TEST(Reference, DigitsDoNotOverflowBesideNan) {
  constexpr std::int64_t kCount = 70000;
  const exact::SumFormat& format = exact::sum_format(DType::float64);
  const int shift = 23 * exact::kDigitBits;
  const std::vector<double> a(kCount, std::ldexp(0x1p53 - 1, shift + format.unit));
  const std::vector<double> b(kCount, std::numeric_limits<double>::quiet_NaN());
  Record actual(static_cast<std::size_t>(format.words()));
  Record expected = actual;
  reference::accumulate({a.data()}, {b.data()}, {DType::float64, Layout::channels_last, kCount, 1, 1},
                        {0, 1, 0, kCount}, {actual.data(), format});
  exact::add_scaled(expected.data(), kCount, shift + 53);
  exact::add_scaled(expected.data(), -kCount, shift);
  exact::Record(expected.data(), format).propagate_carries();
  expected[static_cast<std::size_t>(format.words() - 1)] = exact::kNan;
  EXPECT_EQ(expected, actual);
}

template <class Storage>
void expect_gmp(std::mt19937_64& random) {
  const Geometry g{dtype_of<Storage>, Layout::channels_first, 2, 2, 50};
  const exact::SumFormat& format = exact::sum_format(g.dtype);
  for (const Kind kind : {Kind::ordinary, Kind::any, Kind::huge, Kind::subnormal}) {
    const auto a = draw<Storage>(kind, 200, random), b = draw<Storage>(kind, 200, random);
    Record records(words_of(g));
    reference::accumulate({a.data(), b.data()}, {b.data()}, g, whole(g),
                          {records.data(), exact::sum_format(g.dtype)});
    for (std::size_t c = 0; c < 2; ++c) {
      oracle::Dyadic sum, product;
      for (std::size_t i = 0; i < 200; ++i) {
        if (i / 50 % 2 != c || !(widen(b[i]) > 0)) continue;
        const oracle::Dyadic term = oracle::dyadic(static_cast<double>(widen(a[i])));
        sum = sum + term;
        product = product + term * oracle::dyadic(static_cast<double>(widen(b[i])));
      }
      const std::int64_t* record = records.data() + c * static_cast<std::size_t>(format.words());
      const auto value = [](const std::int64_t* digits, int count, int unit) {
        oracle::Dyadic total;
        for (int i = 0; i < count; ++i) {
          total = total +
                  oracle::Dyadic{mpz_class(static_cast<long>(digits[i])), unit + exact::kDigitBits * long{i}};
        }
        return total;
      };
      EXPECT_EQ(0, (sum - value(record, format.sum_digits, format.unit)).significand);
      EXPECT_EQ(
          0,
          (product - value(record + format.sum_digits, format.product_digits, 2 * format.unit)).significand);
    }
  }
}

TEST(Reference, AccumulateIsExact) {
  std::mt19937_64 random(3);
  expect_gmp<float16>(random);
  expect_gmp<bfloat16>(random);
  expect_gmp<float>(random);
  expect_gmp<double>(random);
}

TEST(Reference, FlagsOfSpecialTerms) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const exact::SumFormat& format = exact::sum_format(DType::float32);
  const struct {
    float a, b;
    std::int64_t sum, product;
  } cases[] = {{1, 2, 0, 0},
               {infinity, 2, exact::kPlusInf, exact::kPlusInf},
               {infinity, -2, exact::kPlusInf, exact::kMinusInf},
               {-infinity, -infinity, exact::kMinusInf, exact::kPlusInf},
               {infinity, 0, exact::kPlusInf, exact::kNan},
               {0, -infinity, 0, exact::kNan},
               {-1, infinity, 0, exact::kMinusInf},
               {nan, 0, exact::kNan, exact::kNan},
               {0, nan, 0, exact::kNan}};
  for (const std::string& name : available_isas()) {
    const ForcedIsa isa(name);
    for (const auto& c : cases) {
      Record record(static_cast<std::size_t>(format.words()));
      accumulate(loops<float>().accumulate, {&c.a}, {&c.b}, {DType::float32, Layout::channels_last, 1, 1, 1},
                 {record.data(), format}, Use::wire);
      EXPECT_EQ(c.sum, record[static_cast<std::size_t>(format.words() - 2)]) << name << c.a << " * " << c.b;
      EXPECT_EQ(c.product, record[static_cast<std::size_t>(format.words() - 1)])
          << name << c.a << " * " << c.b;
    }
  }
}

}  // namespace
}  // namespace syncbn::kernels
