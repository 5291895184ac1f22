#include "kernels/accumulate.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "exact/exact_sum.h"
#include "kernels/convert.h"
#include "kernels/isa.h"
#include "kernels/parallel_for.h"
#include "kernels/reference.h"
#include "kernels/sum_block.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

using exact::SumFormat;

// Channels that are read together where they are neighbours in memory: a cache line of floats.
constexpr std::int64_t kChannelsTogether = 16;
// From here on a contiguous run is worth a block of its own, without a copy.
constexpr std::int64_t kDirectRun = 512;
// Fewer are not worth waking a thread: a few µs of work.
constexpr std::int64_t kTaskElements = 16384;
constexpr std::uint32_t kInfinityBits = 0x7f800000;

int exponent_of(std::uint32_t bits) { return std::max(static_cast<int>(bits >> 23) - 127, -126); }

// Adds blocks of floats to the records of channels, in the window where the last blocks lay; a block that
// does not fit is summed window by window.
class BlockSummer {
 public:
  explicit BlockSummer(const SumFormat& format) : format_(format), half_(format.unit == -24) {}

  void add(const float* a, const float* b, std::size_t n, std::int64_t* record) {
    if (n != n_) {
      n_ = n;
      aim();
    }
    const BlockSum sums = sum_block(a, b, n, window_);
    const auto fits = [](std::uint32_t max, std::uint32_t min_minus_one, std::uint32_t low,
                         std::uint32_t high) {
      return max < high && min_minus_one + (min_minus_one != ~0u ? 1u : 0u) >= low;
    };
    if (fits(sums.a_max, sums.a_min_minus_one, window_.a_low, window_.a_high) &&
        (a == b || fits(sums.b_max, sums.b_min_minus_one, window_.b_low, window_.b_high))) {
      add_sum(sums, window_, record);
      add_products(sums, window_, record);
    } else {
      add_by_windows(a, b, n, sums, record);
    }
  }
  // To be called for a record after its last block, or when another record's blocks come.
  void finish(std::int64_t* record) {
    exact::normalise(record, format_);
    adds_ = 0;
  }

 private:
  void aim() { window_ = half_ ? half_window() : make_window(a_exponent_, b_exponent_, n_); }

  void add_sum(const BlockSum& sums, const Window& window, std::int64_t* record) {
    exact::add_scaled(record, sums.sum, window.sum_ulp - format_.unit);
  }
  void add_products(const BlockSum& sums, const Window& window, std::int64_t* record) {
    std::int64_t* products = record + format_.sum_digits;
    exact::add_scaled(products, sums.high, window.high_ulp - 2 * format_.unit);
    exact::add_scaled(products, sums.low, window.low_ulp - 2 * format_.unit);
    adds_ += 2;
    if (adds_ >= exact::kAddsBeforeNormalise) finish(record);
  }

  void add_by_windows(const float* a, const float* b, std::size_t n, const BlockSum& seen,
                      std::int64_t* record) {
    const bool same = a == b;
    const std::uint32_t b_seen = same ? seen.a_max : seen.b_max;
    if (std::max(seen.a_max, b_seen) >= kInfinityBits) flag_specials(a, b, n, record);
    // NaN and infinities lie outside every window; what is below them is not known yet.
    const int a_top = seen.a_max >= kInfinityBits ? 127 : exponent_of(seen.a_max);
    int b_top = b_seen >= kInfinityBits ? 127 : exponent_of(b_seen);
    std::uint32_t b_limit = kInfinityBits;
    for (bool first = true;; first = false) {
      std::uint32_t b_left = 0;
      Window window{};
      int top = a_top;
      for (std::uint32_t a_limit = kInfinityBits;; a_limit = window.a_low) {
        window = half_ ? half_window() : make_window(top, same ? top : b_top, n);
        window.a_high = std::min(window.a_high, a_limit);  // nothing counts twice
        window.b_high = std::min(window.b_high, b_limit);
        const BlockSum sums = sum_block_masked(a, b, n, window);
        if (first) add_sum(sums, window, record);
        add_products(sums, window, record);
        b_left = sums.b_max;
        if (sums.a_max == 0) break;
        top = exponent_of(sums.a_max);
      }
      if (same || b_left == 0) break;
      b_limit = window.b_low;
      b_top = exponent_of(b_left);
    }
    // The next block probably looks like this one; one octave to spare.
    if (seen.a_max < kInfinityBits) a_exponent_ = std::min(exponent_of(seen.a_max) + 1, 127);
    if (b_seen < kInfinityBits) b_exponent_ = std::min(exponent_of(b_seen) + 1, 127);
    aim();
  }

  void flag_specials(const float* a, const float* b, std::size_t n, std::int64_t* record) const {
    for (std::size_t i = 0; i < n; ++i) {
      if (!std::isfinite(a[i])) record[format_.sum_flags()] |= exact::flag_of(static_cast<double>(a[i]));
      if (!std::isfinite(a[i]) || !std::isfinite(b[i])) {
        record[format_.product_flags()] |= exact::flag_of(static_cast<double>(a[i] * b[i]));
      }
    }
  }

  const SumFormat& format_;
  bool half_;
  std::size_t n_ = 0;
  Window window_{};
  int a_exponent_ = 2;
  int b_exponent_ = 2;
  int adds_ = 0;
};

// One part of the work: some channels, some positions, and where their sums go.
struct Part {
  std::int64_t channel, channels;
  std::int64_t begin, end;
  std::int64_t* records;  // of all channels
};

template <class Storage>
float load(const Operand& operand, std::int64_t offset) {
  const float value = widen(static_cast<const Storage*>(operand.values)[offset]);
  if (operand.mask == nullptr) return value;
  return passes(widen(static_cast<const Storage*>(operand.mask)[offset])) ? value : 0.0F;
}

// n positions of one channel as floats. channels_first only.
template <class Storage>
const float* read_channel(const Operand& operand, const Geometry& g, std::int64_t channel,
                          std::int64_t position, std::int64_t n, float* tile) {
  const std::int64_t place = position % g.spatial;
  const std::int64_t offset = g.offset(channel, position);
  if constexpr (std::is_same_v<Storage, float>) {
    if (operand.mask == nullptr && place + n <= g.spatial)
      return static_cast<const float*>(operand.values) + offset;
  }
  for (std::int64_t done = 0, at = offset, left = g.spatial - place; done < n; left = g.spatial) {
    const std::int64_t run = std::min(left, n - done);
    for (std::int64_t i = 0; i < run; ++i) tile[done + i] = load<Storage>(operand, at + i);
    done += run;
    at += left + (g.channels - 1) * g.spatial;
  }
  return tile;
}

template <class Storage>
void sum_channels_first(const Operand& a, const Operand& b, const Geometry& g, const Part& part) {
  alignas(64) float a_tile[kBlock];
  alignas(64) float b_tile[kBlock];
  const SumFormat& format = exact::sum_format(g.dtype);
  const bool same = a.values == b.values && a.mask == b.mask;
  BlockSummer summer(format);
  for (std::int64_t c = part.channel; c < part.channel + part.channels; ++c) {
    std::int64_t* record = part.records + c * format.words();
    for (std::int64_t position = part.begin; position < part.end;) {
      const std::int64_t run = g.spatial - position % g.spatial;
      const std::int64_t n = std::min({static_cast<std::int64_t>(kBlock), part.end - position,
                                       run >= kDirectRun ? run : std::numeric_limits<std::int64_t>::max()});
      const float* pa = read_channel<Storage>(a, g, c, position, n, a_tile);
      const float* pb = same ? pa : read_channel<Storage>(b, g, c, position, n, b_tile);
      summer.add(pa, pb, static_cast<std::size_t>(n), record);
      position += n;
    }
    summer.finish(record);
  }
}

// Neighbouring channels are transposed into tiles, a cache line at a time.
template <class Storage>
void sum_channels_last(const Operand& a, const Operand& b, const Geometry& g, const Part& part) {
  constexpr std::size_t kRows = 256;
  alignas(64) float a_tiles[kChannelsTogether][kRows];
  alignas(64) float b_tiles[kChannelsTogether][kRows];
  const SumFormat& format = exact::sum_format(g.dtype);
  const bool same = a.values == b.values && a.mask == b.mask;
  std::vector<BlockSummer> summers(static_cast<std::size_t>(part.channels), BlockSummer(format));
  const auto read = [&](const Operand& operand, std::int64_t position, std::int64_t n, float(*tiles)[kRows]) {
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t offset = g.offset(part.channel, position + r);
      for (std::int64_t c = 0; c < part.channels; ++c) tiles[c][r] = load<Storage>(operand, offset + c);
    }
  };
  for (std::int64_t position = part.begin; position < part.end;) {
    const std::int64_t n = std::min<std::int64_t>(kRows, part.end - position);
    read(a, position, n, a_tiles);
    if (!same) read(b, position, n, b_tiles);
    for (std::int64_t c = 0; c < part.channels; ++c) {
      summers[static_cast<std::size_t>(c)].add(a_tiles[c], same ? a_tiles[c] : b_tiles[c],
                                               static_cast<std::size_t>(n),
                                               part.records + (part.channel + c) * format.words());
    }
    position += n;
  }
  for (std::int64_t c = 0; c < part.channels; ++c) {
    summers[static_cast<std::size_t>(c)].finish(part.records + (part.channel + c) * format.words());
  }
}

void sum_part(const Operand& a, const Operand& b, const Geometry& g, const Part& part) {
  if (g.dtype == DType::float64 || use_reference()) {
    reference::accumulate(a, b, g, part.channel, part.channels, part.begin, part.end, part.records);
    return;
  }
  with_storage(g.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    if constexpr (!std::is_same_v<Storage, double>) {
      (g.layout == Layout::channels_last ? sum_channels_last<Storage> : sum_channels_first<Storage>)(a, b, g,
                                                                                                     part);
    }
  });
}

}  // namespace

void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, std::int64_t* records) {
  const SumFormat& format = exact::sum_format(geometry.dtype);
  const std::int64_t positions = geometry.positions();
  if (positions == 0) return;
  // Work is split by channels first, then by positions until every thread has some; sums don't care.
  const std::int64_t tasks =
      std::clamp<std::int64_t>(geometry.elements() / kTaskElements, 1, 8 * get_num_threads());
  const std::int64_t together = geometry.layout == Layout::channels_last ? kChannelsTogether : 1;
  const std::int64_t bundles = (geometry.channels + together - 1) / together;
  const std::int64_t parts = std::min(bundles, tasks);
  const std::int64_t slices = tasks / parts;
  const std::int64_t words = geometry.channels * format.words();
  std::vector<std::int64_t> partial(static_cast<std::size_t>((slices - 1) * words));  // zeros
  const auto slice_records = [&](std::int64_t slice) {
    return slice == 0 ? records : &partial[static_cast<std::size_t>((slice - 1) * words)];
  };
  parallel_for(static_cast<int>(parts * slices), [&](int task) {
    const std::int64_t slice = task / parts;
    const std::int64_t part = task % parts;
    for (std::int64_t bundle = bundles * part / parts; bundle < bundles * (part + 1) / parts; ++bundle) {
      const std::int64_t channel = bundle * together;
      sum_part(a, b, geometry,
               {channel, std::min(together, geometry.channels - channel), positions * slice / slices,
                positions * (slice + 1) / slices, slice_records(slice)});
    }
  });
  for (std::int64_t slice = 1; slice < slices; ++slice) {
    for (std::int64_t c = 0; c < geometry.channels; ++c) {
      exact::merge(records + c * format.words(), slice_records(slice) + c * format.words(), format);
    }
  }
  if (slices > 1) {
    for (std::int64_t c = 0; c < geometry.channels; ++c)
      exact::normalise(records + c * format.words(), format);
  }
}

}  // namespace syncbn::kernels
