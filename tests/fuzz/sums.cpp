// SPDX-License-Identifier: Apache-2.0

// accumulate and finish against the oracle: one call compares as many small batches as its input has bytes
// for.
//
// control: with kSingle.product_digits - 1 digits in WideInt::from_digits, or one octave more in make_window,
// a run from the corpus fails within seconds.
#include <fmt/core.h>

#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

#include "exact/exact_sum.h"
#include "exact/finish.h"
#include "fuzz/input.h"
#include "kernels/loops.h"
#include "oracle/sums.h"
#include "syncbn/isa.h"
#include "syncbn/threads.h"

namespace {

using syncbn::DType;
namespace exact = syncbn::exact;
namespace kernels = syncbn::kernels;

constexpr double kEps = 1e-5;
constexpr int kBatches = 64;  // the fuzzer's own work takes as long as some

struct Comparisons {
  unsigned long batches = 0;
  ~Comparisons() { std::fprintf(stderr, "sums: %lu batches compared\n", batches); }
};
Comparisons comparisons;

// The fuzzer's bytes, then pseudo-random ones (splitmix64 over a hash of those).
class Stream {
 public:
  Stream(const std::uint8_t* data, std::size_t size) : input_(data, size) {
    for (std::size_t i = 0; i < size; ++i) state_ = (state_ ^ data[i]) * 1099511628211u;
  }
  template <class T>
  T take() {
    return input_.empty() ? std::bit_cast<T>(static_cast<Bits<sizeof(T)>>(next())) : input_.take<T>();
  }
  int below(int count) { return take<std::uint8_t>() % count; }

 private:
  template <std::size_t size>
  using Bits =
      std::conditional_t<size == 8, std::uint64_t,
                         std::conditional_t<size == 4, std::uint32_t,
                                            std::conditional_t<size == 2, std::uint16_t, std::uint8_t>>>;

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }

  fuzz::Input input_;
  std::uint64_t state_ = 14695981039346656037u;
};

bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

double to_double(syncbn::float16 value) { return static_cast<double>(value); }
double to_double(syncbn::bfloat16 value) { return static_cast<double>(value); }
double to_double(float value) { return static_cast<double>(value); }
double to_double(double value) { return value; }

// Significand and exponent of a value in a few octaves, so that the sums' fast passes are met too.
template <class T>
T near(int base, std::uint16_t bits) {
  const double significand = static_cast<double>(static_cast<std::int16_t>(bits) >> 3) / 4096.0;
  return T(std::ldexp(significand, base + (bits & 7)));
}

template <class T>
struct Batch {
  kernels::Geometry geometry;
  std::vector<T> a, b, mask;  // b empty: it is a; mask may be empty

  // What a rank sums that has the samples from `begin` to `end`.
  std::vector<std::int64_t> records(std::int64_t begin, std::int64_t end) const {
    const exact::SumFormat& format = exact::sum_format(geometry.dtype);
    kernels::Geometry share = geometry;
    share.samples = end - begin;
    const std::int64_t offset = begin * geometry.channels * geometry.spatial;
    const T* const other = b.empty() ? a.data() : b.data();
    std::vector<std::int64_t> result(static_cast<std::size_t>(geometry.channels * format.words()));
    const kernels::Operand first{a.data() + offset, mask.empty() ? nullptr : mask.data() + offset};
    kernels::accumulate(kernels::loops<T>().accumulate, first, {other + offset}, share,
                        {result.data(), exact::sum_format(share.dtype)}, kernels::Use::wire);
    return result;
  }
};

template <class T>
Batch<T> read_batch(Stream& input) {
  const auto flags = input.take<std::uint8_t>();
  const auto sizes = input.take<std::uint8_t>();
  const bool pairs = (flags & 1) != 0;
  const bool masked = pairs && (flags & 2) != 0;
  const bool wide = (flags & 4) != 0;
  Batch<T> batch;
  batch.geometry = {syncbn::dtype_of<T>,
                    (flags & 8) != 0 ? syncbn::Layout::channels_last : syncbn::Layout::channels_first,
                    1 + (sizes & 3), 1 + (sizes >> 2) % 2, 1 + (sizes >> 3) % 4};
  if (sizes == 255) batch.geometry.spatial = 67;  // several vectors and a rest
  if (batch.geometry.spatial == 1) batch.geometry.layout = syncbn::Layout::channels_last;
  const int base =
      static_cast<std::int8_t>(input.take<std::uint8_t>()) * (batch.geometry.dtype == DType::float64 ? 8 : 1);
  const auto fill = [&](std::vector<T>& values) {
    for (std::int64_t i = 0; i < batch.geometry.elements(); ++i)
      values.push_back(wide ? input.take<T>() : near<T>(base, input.take<std::uint16_t>()));
  };
  fill(batch.a);
  if (pairs) fill(batch.b);
  if (masked) fill(batch.mask);
  return batch;
}

mpz_class integer(const std::int64_t* digits, int count) {
  mpz_class value;
  for (int i = count; i-- > 0;) {
    value <<= exact::kDigitBits;
    value += digits[i];
  }
  return value;
}

bool is_value(const oracle::Dyadic& value, const std::int64_t* digits, int count, long unit) {
  return (value - oracle::Dyadic{integer(digits, count), unit}).significand == 0;
}

template <class T>
void compare(const Batch<T>& batch, std::int64_t channel, exact::ConstRecord record, double mean) {
  const kernels::Geometry& g = batch.geometry;
  const exact::SumFormat& format = record.format();
  oracle::ExactSum a, ab;
  for (std::int64_t position = 0; position < g.positions(); ++position) {
    const auto i = static_cast<std::size_t>(g.offset(channel, position));
    const double factor = to_double(batch.b.empty() ? batch.a[i] : batch.b[i]);
    double term = to_double(batch.a[i]);
    if (!batch.mask.empty() && to_double(batch.mask[i]) <= 0) term = 0;
    a.add(term);
    ab.add_product(term, factor);
  }
  const auto expect = [&](bool good, const char* what) {
    if (!good)
      fuzz::expect(false, fmt::format("{}: {}, {} x {} x {}, channel {}, {}", what, syncbn::name_of(g.dtype),
                                      g.samples, g.channels, g.spatial, channel, syncbn::active_isa()));
  };
  if (!a.special() && !ab.special()) {
    expect(is_value(a.exact(), record.sum(), format.sum_digits, format.unit), "digits of the sum");
    expect(is_value(ab.exact(), record.product(), format.product_digits, 2L * format.unit),
           "digits of the products");
  }
  expect(same(a.rounded(), exact::rounded_sum(record)), "rounded sum");
  expect(same(oracle::centred(a, ab, mean), exact::centred_product(record, mean)), "centred product");
  if (!batch.b.empty()) return;
  const oracle::Statistics expected = oracle::statistics_of(a, ab, g.positions());
  const exact::Statistics found = exact::statistics(record, g.positions(), kEps);
  expect(same(expected.mean, found.mean), "mean");
  expect(same(expected.var, found.var), "biased variance");
  expect(same(expected.var_unbiased, found.var_unbiased), "unbiased variance");
}

// As two ranks bring it, merged as an all-reduce does: word by word.
template <class T>
void compare_batch(Stream& input) {
  const Batch<T> batch = read_batch<T>(input);
  const std::int64_t split = input.below(static_cast<int>(batch.geometry.samples) + 1);
  const auto mean = input.take<double>();
  std::vector<std::int64_t> sum = batch.records(0, split);
  const std::vector<std::int64_t> rest = batch.records(split, batch.geometry.samples);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += rest[i];
  const exact::ConstRecords records(sum.data(), exact::sum_format(batch.geometry.dtype));
  for (std::int64_t c = 0; c < batch.geometry.channels; ++c) compare(batch, c, records[c], mean);
  ++comparisons.batches;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<std::string> isas = syncbn::available_isas();
  static std::size_t isa = isas.size();
  syncbn::set_num_threads(1);
  Stream input(data, size);
  if (const auto chosen = static_cast<std::size_t>(input.below(static_cast<int>(isas.size()))); chosen != isa)
    syncbn::force_isa(isas[isa = chosen]);
  for (int i = 0; i < kBatches; ++i) {
    switch (input.below(8)) {  // float64 rarely: its sums are six times as long
      case 0:
        compare_batch<double>(input);
        break;
      case 1:
      case 2:
        compare_batch<syncbn::float16>(input);
        break;
      case 3:
      case 4:
        compare_batch<syncbn::bfloat16>(input);
        break;
      default:
        compare_batch<float>(input);
    }
  }
  return 0;
}
