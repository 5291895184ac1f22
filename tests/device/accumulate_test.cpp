// SPDX-License-Identifier: Apache-2.0

// The device's sums, word for word, against kernels::reference: in three orders of threads and blocks, on
// grids of one block and of many, on data of all exponents, aligned or not.
//
// control: tests/mutations/faults.toml breaks the tests of a window, and an exchange of a warp, one at a
// time.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "device/emulated.h"
#include "device/executor.h"
#include "kernels/data.h"
#include "kernels/reference.h"

namespace syncbn::device {
namespace {

using kernels::Kind;
using simt::Order;
using Words = std::vector<std::int64_t>;

constexpr Order kOrders[] = {Order::forward, Order::backward, Order::shuffled};

struct Dims {
  std::int64_t samples, channels, spatial;
};

// Kinds of data beside those of kernels/data.h.
enum class Span {
  given,       // the kind alone
  tiles,       // scales that change from tile to tile
  everywhere,  // all exponents side by side
  shifted,     // a mean that is large beside the spread
};

template <class Storage>
std::vector<Storage> draw(Kind kind, Span span, std::size_t count, std::mt19937_64& random) {
  std::vector<Storage> values = kernels::draw<Storage>(kind, count, random);
  if (span == Span::given) return values;
  const int reach = std::is_same_v<Storage, float16> ? 12 : 120;
  for (std::size_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(kernels::widen(values[i]));
    const int tile = static_cast<int>(i / 700 * 37 % static_cast<std::size_t>(2 * reach)) - reach;
    const int any = static_cast<int>(random() % static_cast<std::size_t>(2 * reach)) - reach;
    values[i] =
        Storage(span == Span::shifted ? value + 1000 : std::ldexp(value, span == Span::tiles ? tile : any));
  }
  return values;
}

// A copy of some elements at an address that is or is not aligned for packs.
template <class Storage>
class Placed {
 public:
  Placed(const std::vector<Storage>& values, bool aligned) : memory_(values.size() + 32 / sizeof(Storage)) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    const std::size_t to_next = (16 - address % 16) % 16 / sizeof(Storage);
    begin_ = memory_.data() + to_next + (aligned ? 0 : 1);
    std::copy(values.begin(), values.end(), begin_);
  }
  const Storage* data() const { return begin_; }

 private:
  std::vector<Storage> memory_;
  Storage* begin_;
};

Words device_sums(const AccumulateArguments& call, std::size_t words) {
  Words records(words);
  AccumulateArguments made = call;
  made.records = records.data();
  made.for_wire = true;
  EXPECT_EQ(0, emulated_api().accumulate(&made, nullptr));
  return records;
}

template <class Storage>
void expect_reference(const Dims& dims, Layout layout, Kind kind, Span span, std::int64_t most_blocks,
                      Order order, bool aligned, std::mt19937_64& random) {
  const kernels::Geometry g{dtype_of<Storage>, layout, dims.samples, dims.channels, dims.spatial};
  const auto count = static_cast<std::size_t>(g.elements());
  SCOPED_TRACE(std::string(name_of(g.dtype)) + (layout == Layout::channels_last ? " channels-last" : "") +
               " (" + std::to_string(dims.samples) + ", " + std::to_string(dims.channels) + ", " +
               std::to_string(dims.spatial) + "), kind " + std::to_string(static_cast<int>(kind)) +
               ", span " + std::to_string(static_cast<int>(span)) + ", blocks " +
               std::to_string(most_blocks) + ", order " + std::to_string(static_cast<int>(order)) +
               (aligned ? "" : ", not aligned"));
  const Placed<Storage> a(draw<Storage>(kind, span, count, random), aligned);
  const Placed<Storage> b(draw<Storage>(kind, span, count, random), aligned);
  auto closed = kernels::draw<Storage>(Kind::ordinary, count, random);
  for (std::size_t i = 0; i < count; i += 5) closed[i] = kernels::zero<Storage>(i % 2 != 0);
  for (std::size_t i = 3; i < count; i += 50) closed[i] = kernels::nan<Storage>();
  const Placed<Storage> mask(closed, aligned);
  const exact::SumFormat& format = exact::sum_format(g.dtype);
  const auto words = static_cast<std::size_t>(g.channels * format.words());
  const auto reference = [&](const kernels::Operand& left, const kernels::Operand& right) {
    Words records(words);
    kernels::reference::accumulate(left, right, g, kernels::whole(g), {records.data(), format});
    return records;
  };
  const Shape shape{g.dtype, layout, g.samples, g.channels, g.spatial, most_blocks};
  const simt::Scheduled scheduled(order, static_cast<unsigned>(random()));
  ASSERT_EQ(reference({a.data()}, {a.data()}),
            device_sums({shape, a.data(), nullptr, nullptr, nullptr, true}, words));
  ASSERT_EQ(reference({a.data()}, {b.data()}),
            device_sums({shape, a.data(), b.data(), nullptr, nullptr, true}, words));
  ASSERT_EQ(reference({a.data(), mask.data()}, {b.data()}),
            device_sums({shape, a.data(), b.data(), mask.data(), nullptr, true}, words));
}

template <class Storage>
class DeviceSums : public ::testing::Test {};
using Storages = ::testing::Types<float, bfloat16, float16, double>;
TYPED_TEST_SUITE(DeviceSums, Storages);

TYPED_TEST(DeviceSums, AreTheReference) {
  std::mt19937_64 random(1);
  constexpr Dims shapes[] = {{3, 2, 64}, {1, 1, 1}, {2, 3, 7}, {5, 4, 8}, {1, 70, 40}, {2, 5, 1100}};
  int k = 0;
  for (const Dims& dims : shapes) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      for (const Kind kind : kernels::kKinds) {
        ++k;
        expect_reference<TypeParam>(dims, layout, kind, Span::given, k % 2 == 0 ? 1 : 40, kOrders[k % 3],
                                    k % 5 != 0, random);
      }
      for (const Span span : {Span::tiles, Span::everywhere, Span::shifted}) {
        ++k;
        expect_reference<TypeParam>(dims, layout, Kind::ordinary, span, k % 2 == 0 ? 1 : 40, kOrders[k % 3],
                                    k % 5 != 0, random);
      }
    }
  }
}

}  // namespace
}  // namespace syncbn::device
