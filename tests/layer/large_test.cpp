// SPDX-License-Identifier: Apache-2.0

// More than 2^31 elements a channel and samples, in little memory: one period's memory is mapped again and
// again. A power of two of equal periods has the mean, the variance and so the outputs and gradients of one,
// bit for bit.
//
// control: with the offset in accumulate.cpp's terms_at, or the first elements in apply.cpp's for_each_rows,
// brought through an int, these tests fail.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <random>
#include <system_error>
#include <vector>

#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr std::int64_t kPeriod = 5 << 18;  // elements; 2.5 MB of bfloat16, whole pages
constexpr std::int64_t kTimes = 2048;
constexpr std::int64_t kElements = kPeriod * kTimes;
static_assert(kElements > (std::int64_t{1} << 31));

void check(bool good, const char* call) {
  if (!good) throw std::system_error(errno, std::generic_category(), call);
}

// `times` periods that are one, but for the last, which has memory of its own: what is not written shows.
class Periods {
 public:
  explicit Periods(std::int64_t times = kTimes) : bytes_(kBytes * static_cast<std::size_t>(times)) {
    const int file = memfd_create("periods", MFD_CLOEXEC);
    check(file >= 0 && ftruncate(file, 2 * kBytes) == 0, "memfd_create");
    auto* const memory = static_cast<std::byte*>(
        mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    check(memory != MAP_FAILED, "mmap");
    memory_ = memory;
    for (std::size_t at = 0; at < bytes_; at += kBytes) {
      const off_t from = at + kBytes == bytes_ ? static_cast<off_t>(kBytes) : 0;
      check(mmap(memory + at, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, from) ==
                memory + at,
            "mmap");
    }
    close(file);
  }
  ~Periods() { munmap(memory_, bytes_); }
  Periods(const Periods&) = delete;
  Periods& operator=(const Periods&) = delete;

  bfloat16* data() { return reinterpret_cast<bfloat16*>(memory_); }
  std::vector<std::uint16_t> first() { return bits(data()); }
  std::vector<std::uint16_t> last() { return bits(data() + elements_of(bytes_) - kPeriod); }
  void fill(const std::vector<bfloat16>& period) {
    std::copy(period.begin(), period.end(), data());
    std::copy(period.begin(), period.end(), data() + elements_of(bytes_) - kPeriod);
  }

 private:
  static constexpr std::size_t kBytes = kPeriod * sizeof(bfloat16);
  static std::int64_t elements_of(std::size_t bytes) { return static_cast<std::int64_t>(bytes / 2); }
  static std::vector<std::uint16_t> bits(const bfloat16* period) {
    std::vector<std::uint16_t> values;
    for (std::int64_t i = 0; i < kPeriod; ++i) values.push_back(period[i].bits);
    return values;
  }

  std::byte* memory_ = nullptr;
  std::size_t bytes_;
};

std::vector<bfloat16> normal(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> value(3, 2);
  std::vector<bfloat16> values;
  for (std::int64_t i = 0; i < kPeriod; ++i) values.emplace_back(value(random));
  return values;
}

struct Outcome {
  std::vector<std::uint16_t> y_first, y_last, dx_first, dx_last;
  Saved saved;
  std::vector<float> weight_grad, running_mean;
};

// One training step on `times` periods that are a batch of this shape.
Outcome step(const Shape& shape, Layout layout, std::int64_t times) {
  Periods x(times), y(times), dy(times), dx(times);
  x.fill(normal(1));
  dy.fill(normal(2));
  SyncBatchNorm layer(shape.channels());
  const auto tensor = [&](Periods& periods) {
    return TensorView{periods.data(), DType::bfloat16, shape, layout};
  };
  Outcome made;
  layer.forward({tensor(x), tensor(y), std::nullopt}, made.saved);
  layer.backward(made.saved, {tensor(dy), tensor(x), std::nullopt, tensor(dx), std::nullopt});
  made.y_first = y.first();
  made.y_last = y.last();
  made.dx_first = dx.first();
  made.dx_last = dx.last();
  const auto copy = [&](const char* name) {
    const auto values = layer.values<float>(name);
    return std::vector<float>(values.begin(), values.end());
  };
  made.weight_grad = copy("weight_grad");
  made.running_mean = copy("running_mean");
  return made;
}

void expect_as_one_period(const Shape& large, const Shape& one, Layout layout, std::int64_t times) {
  const Outcome expected = step(one, layout, 1);
  const Outcome found = step(large, layout, times);
  EXPECT_EQ(found.saved.count, expected.saved.count * times);
  EXPECT_EQ(found.saved.mean, expected.saved.mean);
  EXPECT_EQ(found.saved.var, expected.saved.var);
  EXPECT_EQ(found.saved.invstd, expected.saved.invstd);
  EXPECT_EQ(found.running_mean, expected.running_mean);
  EXPECT_TRUE(found.y_first == expected.y_first);
  EXPECT_TRUE(found.y_last == expected.y_last);
  EXPECT_TRUE(found.dx_first == expected.dx_first);
  EXPECT_TRUE(found.dx_last == expected.dx_last);
  for (std::size_t c = 0; c < found.weight_grad.size(); ++c) {
    EXPECT_EQ(found.weight_grad[c], expected.weight_grad[c] * static_cast<float>(times));
    const auto n = static_cast<double>(found.saved.count);
    EXPECT_DOUBLE_EQ(found.saved.var_unbiased[c], found.saved.var[c] * n / (n - 1));
  }
}

TEST(Large, OneChannel) {
  expect_as_one_period({1, 1, kElements}, {1, 1, kPeriod}, Layout::channels_first, kTimes);
}

TEST(Large, ManySamples) {
  expect_as_one_period({kTimes, 5, kPeriod / 5}, {1, 5, kPeriod / 5}, Layout::channels_first, kTimes);
}

TEST(Large, ChannelsLast) {
  expect_as_one_period({kTimes, 10, kPeriod / 10}, {1, 10, kPeriod / 10}, Layout::channels_last, kTimes);
}

// A sample is an element.
TEST(Large, NoPlaces) { expect_as_one_period({kElements, 1}, {kPeriod, 1}, Layout::channels_first, kTimes); }

}  // namespace
}  // namespace syncbn::testing
