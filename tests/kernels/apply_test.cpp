// SPDX-License-Identifier: Apache-2.0

// The apply kernels of every instruction set against the scalar reference, bit for bit.
//
// control: an unfused multiply and add in normalize_rows_of, Lt for Le in where_passes (passes -0), a tail
// written one element too far, one coefficient for all in the tail of a channels-last run or in rows that are
// taken as one, or the first row's in a vector that lies in two: each makes a test here fail.

#include "kernels/apply.h"

#include <gtest/gtest.h>

#include "kernels/data.h"
#include "kernels/loops.h"
#include "kernels/plan.h"
#include "kernels/reference.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

constexpr std::size_t kRows = 3;
constexpr std::size_t kBehind = 20;  // elements behind that must stay untouched

// Ordinary values, and a few of everything else.
template <class Storage>
std::vector<Storage> mixed(std::size_t n, std::mt19937_64& random) {
  std::vector<Storage> values = draw<Storage>(Kind::ordinary, n, random);
  for (std::size_t i = 0; i < n; ++i) {
    const auto kind = random() % 12;
    if (kind == 0) values[i] = draw<Storage>(Kind::special, random);
    if (kind == 1) values[i] = draw<Storage>(Kind::any, random);
    if (kind == 2) values[i] = zero<Storage>(random() % 2 == 0);
  }
  return values;
}

std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all;
  for (std::size_t n = 0; n <= 40; ++n) all.push_back(n);
  for (const std::size_t n : {63U, 64U, 65U, 127U, 1000U, 1023U, 1025U}) all.push_back(n);
  return all;
}

class ApplyRows : public ::testing::TestWithParam<std::string> {};
class Apply : public ::testing::TestWithParam<std::string> {};

// Memory from the beginning of a cache line on.
template <class T>
struct FromLine {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, kLine); }
  friend bool operator==(const FromLine&, const FromLine&) = default;
};

// Rows that are aligned for nothing but the elements, and what lies around them. Results lie alike, so that
// two may be streamed, and otherwise than what is read.
template <class Storage>
struct Surrounded {
  Surrounded(std::size_t stride, std::mt19937_64& random, std::size_t elements_before)
      : before(elements_before) {
    const auto drawn = mixed<Storage>(before + kRows * stride + kBehind, random);
    values.assign(drawn.begin(), drawn.end());
  }
  Storage* rows() { return values.data() + before; }
  std::size_t before;
  std::vector<Storage, FromLine<Storage>> values;
};
constexpr std::size_t kRead = 3, kWritten = 5;  // elements before the rows

template <class Storage>
void expect_normalized_rows(std::size_t n, int options, std::mt19937_64& random) {
  using T = Compute<Storage>;
  const std::size_t stride = (options & 16) != 0 ? n : n + kBehind;
  const bool residual = (options & 1) != 0, relu = (options & 2) != 0, per_element = (options & 4) != 0;
  const Write write = (options & 8) != 0 ? Write::streaming : Write::cached;
  SCOPED_TRACE(std::string(name_of(dtype_of<Storage>)) + ", n " + std::to_string(n) + ", options " +
               std::to_string(options));
  Surrounded<Storage> x(stride, random, kRead), r(stride, random, kRead), expected(stride, random, kWritten),
      actual = expected;
  const auto mean_hi = mixed<T>(n + kRows, random), k = mixed<T>(n + kRows, random),
             shift = mixed<T>(n + kRows, random);
  const auto rows = [&](Surrounded<Storage>& y) {
    return NormalizeRows<Storage>{
        x.rows(), residual ? r.rows() : nullptr, y.rows(), {kRows, n, stride, per_element, 64}, relu};
  };
  const ForwardColumns<const T> columns{mean_hi.data(), k.data(), shift.data()};
  reference::normalize<Storage>(rows(expected), columns);
  apply_tables().of<Storage>().normalize(rows(actual), columns, write);
  ASSERT_EQ(bits(expected.values), bits(actual.values));
}

TEST_P(ApplyRows, Normalize) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(1);
  for (const std::size_t n : lengths()) {
    for (int options = 0; options < 32; ++options) {
      expect_normalized_rows<float>(n, options, random);
      if (n % 3 != 0) continue;
      expect_normalized_rows<double>(n, options, random);
      expect_normalized_rows<float16>(n, options, random);
      expect_normalized_rows<bfloat16>(n, options, random);
    }
  }
}

template <class Storage>
void expect_gradient_rows(std::size_t n, int options, std::mt19937_64& random) {
  using T = Compute<Storage>;
  const bool relu = (options & 1) != 0, per_element = (options & 2) != 0, of_batch = (options & 4) != 0,
             wants_dx = (options & 8) != 0, wants_residual = (options & 16) != 0,
             in_place = (options & 32) != 0;
  const Write write = (options & 64) != 0 ? Write::streaming : Write::cached;
  const std::size_t stride = (options & 128) != 0 ? n : n + kBehind;
  if (in_place && !wants_dx) return;
  SCOPED_TRACE(std::string(name_of(dtype_of<Storage>)) + ", n " + std::to_string(n) + ", options " +
               std::to_string(options));
  Surrounded<Storage> dy(stride, random, in_place ? kWritten : kRead), x(stride, random, kRead),
      y(stride, random, kRead), expected_dx(stride, random, kWritten),
      dx = expected_dx, expected_residual(stride, random, kWritten), d_residual = expected_residual;
  if (in_place) expected_dx = dy;
  const auto mean_hi = mixed<T>(n + kRows, random), k = mixed<T>(n + kRows, random),
             c2 = mixed<T>(n + kRows, random), c1 = mixed<T>(n + kRows, random);
  // What is written in place is read from there, too.
  Surrounded<Storage>& written = in_place ? dy : dx;
  const auto rows = [&](Surrounded<Storage>& to_dx, Surrounded<Storage>& to_residual) {
    return GradientRows<Storage>{in_place ? to_dx.rows() : dy.rows(),
                                 x.rows(),
                                 relu ? y.rows() : nullptr,
                                 wants_dx ? to_dx.rows() : nullptr,
                                 wants_residual ? to_residual.rows() : nullptr,
                                 {kRows, n, stride, per_element, 64},
                                 of_batch};
  };
  const BackwardColumns<const T> columns{mean_hi.data(), k.data(), c2.data(), c1.data()};
  reference::differentiate<Storage>(rows(expected_dx, expected_residual), columns);
  apply_tables().of<Storage>().differentiate(rows(written, d_residual), columns, write);
  ASSERT_EQ(bits(expected_dx.values), bits(written.values));
  ASSERT_EQ(bits(expected_residual.values), bits(d_residual.values));
}

TEST_P(ApplyRows, Differentiate) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(2);
  for (const std::size_t n : lengths()) {
    for (int options = 0; options < 256; ++options) {
      expect_gradient_rows<float>(n, options, random);
      if ((static_cast<int>(n) + options) % 5 != 0) continue;
      expect_gradient_rows<double>(n, options, random);
      expect_gradient_rows<float16>(n, options, random);
      expect_gradient_rows<bfloat16>(n, options, random);
    }
  }
}

template <class T>
std::vector<T> coefficients(std::size_t n, std::mt19937_64& random) {
  return draw<T>(Kind::ordinary, n, random);
}

// Whole tensors: each element by the reference alone, with its own channel's coefficients.
template <class Storage>
void expect_reference(const Geometry& g, bool relu, bool residual, bool in_place, bool of_batch,
                      std::mt19937_64& random) {
  using T = Compute<Storage>;
  SCOPED_TRACE(std::string(name_of(g.dtype)) +
               (g.layout == Layout::channels_last ? " channels-last (" : " (") + std::to_string(g.samples) +
               ", " + std::to_string(g.channels) + ", " + std::to_string(g.spatial) + ")" +
               (relu ? ", relu" : "") + (residual ? ", residual" : "") + (in_place ? ", dx is dy" : "") +
               (of_batch ? ", of the batch" : ""));
  const auto n = static_cast<std::size_t>(g.elements());
  const auto channels = static_cast<std::size_t>(g.channels);
  const auto x = mixed<Storage>(n, random), r = mixed<Storage>(n, random);
  auto dy = mixed<Storage>(n, random);
  auto mean_hi = coefficients<T>(channels, random), k = coefficients<T>(channels, random),
       c2 = coefficients<T>(channels, random), c1 = coefficients<T>(channels, random);
  std::vector<Storage> y(n), expected_y(n), dx(n), expected_dx(n), d_residual(n), expected_residual(n);
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::int64_t position = 0; position < g.positions(); ++position) {
      const auto i = static_cast<std::size_t>(g.offset(static_cast<std::int64_t>(c), position));
      const Extent one{1, 1, 1, false, 0};
      reference::normalize<Storage>({&x[i], residual ? &r[i] : nullptr, &expected_y[i], one, relu},
                                    {&mean_hi[c], &k[c], &c1[c]});
      reference::differentiate<Storage>({&dy[i], &x[i], relu ? &expected_y[i] : nullptr, &expected_dx[i],
                                         &expected_residual[i], one, of_batch},
                                        {&mean_hi[c], &k[c], &c2[c], &c1[c]});
    }
  }
  forced_paths().streaming = random() % 2 == 0;
  const ApplyLoops<Storage> apply = loops<Storage>().apply;
  normalize<Storage>(apply, {x.data(), residual ? r.data() : nullptr, y.data()}, g,
                     {mean_hi.data(), k.data(), c1.data()}, relu);
  EXPECT_EQ(bits(expected_y), bits(y));
  differentiate<Storage>(apply,
                         {dy.data(), x.data(), relu ? y.data() : nullptr, in_place ? dy.data() : dx.data(),
                          residual ? d_residual.data() : nullptr},
                         g, {mean_hi.data(), k.data(), c2.data(), c1.data()}, of_batch);
  forced_paths().streaming.reset();
  EXPECT_EQ(bits(expected_dx), bits(in_place ? dy : dx));
  if (residual) {
    EXPECT_EQ(bits(expected_residual), bits(d_residual));
  }
}

TEST_P(Apply, WholeTensors) {
  const ForcedIsa isa(GetParam());
  std::mt19937_64 random(3);
  constexpr struct {
    std::int64_t samples, channels, spatial;
  } shapes[] = {{1, 1, 1}, {2, 3, 5}, {3, 33, 1}, {2, 2, 1500}, {1, 1500, 2}, {3, 7, 2000}, {0, 2, 3}};
  for (const auto& dims : shapes) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      if (dims.spatial == 1 && layout == Layout::channels_first) continue;  // the same memory
      for (int options = 0; options < 32; ++options) {
        if (dims.samples * dims.channels * dims.spatial > 1000 && options % 5 != 0) continue;
        const bool relu = (options & 1) != 0, residual = (options & 2) != 0, in_place = (options & 4) != 0,
                   of_batch = (options & 8) != 0;
        set_num_threads(1 + options % 4);
        const auto geometry = [&](DType dtype) {
          return Geometry{dtype, layout, dims.samples, dims.channels, dims.spatial};
        };
        expect_reference<float>(geometry(DType::float32), relu, residual, in_place, of_batch, random);
        expect_reference<float16>(geometry(DType::float16), relu, residual, in_place, of_batch, random);
        expect_reference<bfloat16>(geometry(DType::bfloat16), relu, residual, in_place, of_batch, random);
        expect_reference<double>(geometry(DType::float64), relu, residual, in_place, of_batch, random);
      }
    }
  }
  set_num_threads(0);
}

INSTANTIATE_TEST_SUITE_P(Isas, ApplyRows, ::testing::ValuesIn(vector_isas()),
                         [](const auto& isa) { return isa.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ApplyRows);  // where there is the reference only
INSTANTIATE_TEST_SUITE_P(Isas, Apply, ::testing::ValuesIn(available_isas()),
                         [](const auto& isa) { return isa.param; });

}  // namespace
}  // namespace syncbn::kernels
