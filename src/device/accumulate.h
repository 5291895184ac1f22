// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/digits.h"
#include "device/geometry.h"

/// Kernels that add Σa and Σa·b of each channel to records of zeros. Forward: a = b = x. Backward: a = dy', b
/// = x. Digits of the records are added by integer atomics, so neither the order of blocks nor the grid
/// matters.
namespace syncbn::device {

enum class Terms : std::uint8_t { squares, pairs, masked_pairs };

template <class Storage>
struct Operands {
  const Storage *a, *b, *mask;  ///< b: pairs; mask: masked pairs, whose a counts as +0 where ReLU is closed.
};

/// Some positions of some channels of each block, until none is left.
struct Slices {
  std::int64_t length;  ///< Packs (channels-first) or positions (channels-last) of a slice.
  std::int64_t count;   ///< Slices of a channel (channels-first) or of a group of columns (channels-last).
};

struct ChannelsFirst {
  std::int64_t channels, packs;  ///< Packs of a channel.
  Division row;                  ///< By the packs of a channel in one sample.
  Slices slices;
};
struct ChannelsLast {
  std::int64_t channels, positions;
  unsigned columns;  ///< Packs of channels that a block takes side by side: a power of two, up to 32.
  Slices slices;
};

inline constexpr unsigned kAccumulateThreads = 256;

/// The elements of one tile that a thread has. Places past the end hold zeros.
template <class Storage, Terms kTerms, int kPacks, int kWide>
struct Tile {
  using T = kernels::Compute<Storage>;
  static constexpr int kCount = kPacks * kWide;
  static constexpr bool kSquares = kTerms == Terms::squares;

  T a[kCount], b[kSquares ? 1 : kCount];

  SYNCBN_SIMT T b_of(int i) const {
    if constexpr (kSquares) {
      return a[i];
    } else {
      return b[i];
    }
  }
  /// Loads pack `i` of the tile from element `offset`.
  SYNCBN_SIMT void load(int i, const Operands<Storage>& from, std::int64_t offset) {
    const auto pack_a = simt::load<kWide>(from.a + offset);
    simt::Pack<Storage, kWide> pack_b = pack_a, pack_mask = pack_a;
    if constexpr (!kSquares) pack_b = simt::load<kWide>(from.b + offset);
    if constexpr (kTerms == Terms::masked_pairs) pack_mask = simt::load<kWide>(from.mask + offset);
    SYNCBN_UNROLL
    for (int k = 0; k < kWide; ++k) {
      T& value = a[i * kWide + k];
      value = kernels::widen(pack_a.values[k]);
      if constexpr (kTerms == Terms::masked_pairs) {
        if (!kernels::passes(kernels::widen(pack_mask.values[k]))) value = 0;
      }
      if constexpr (!kSquares) b[i * kWide + k] = kernels::widen(pack_b.values[k]);
    }
  }
  SYNCBN_SIMT void clear(int i) {
    SYNCBN_UNROLL
    for (int k = 0; k < kWide; ++k) {
      a[i * kWide + k] = 0;
      if constexpr (!kSquares) b[i * kWide + k] = 0;
    }
  }
};

/// Magnitudes of some elements, as bits.
struct Extremes {
  std::uint32_t most = 0, least = 0xffffffffu;  ///< `least`: of those that are not zero, minus 1.
  SYNCBN_SIMT void add(float x) {
    const std::uint32_t size = simt::bits(x) & 0x7fffffffu;
    most = most < size ? size : most;
    least = least > size - 1 ? size - 1 : least;
  }
};

/// Unit of a window that admits all these elements, with an octave to spare if possible; else kNoUnit. If the
/// largest element rounds up, out of the window, split() tells.
inline constexpr int kNoUnit = 1000;
template <class Storage>
SYNCBN_SIMT int fitting_unit(const Extremes& extremes) {
  constexpr std::uint32_t kInfinity = 0x7f800000u, kNormal = 0x800000u;
  if (extremes.most >= kInfinity) return kNoUnit;
  if constexpr (std::is_same_v<Storage, float16>) return exact::kHalfSums.unit;  // admits all its values
  if (extremes.most == 0) return 0;
  constexpr int kFraction = std::is_same_v<Storage, bfloat16> ? 7 : 23;
  const auto exponent = [](std::uint32_t size) {
    return size < kNormal ? -126 : static_cast<int>(size >> 23) - 127;
  };
  const std::uint32_t least = extremes.least + 1;
  const int own = least < kNormal ? kLowestUnit : exponent(least) - kFraction;  // all are multiples of 2^own
  int unit = exponent(extremes.most) + 2 - kWindowBits;
  if (unit > own) --unit;
  unit = unit < kLowestUnit ? kLowestUnit : unit > kHighestUnit ? kHighestUnit : unit;
  return unit <= own && exponent(extremes.most) < unit + kWindowBits ? unit : kNoUnit;
}
/// Unit of the lowest window that admits the largest of some elements, with an octave to spare.
template <class Storage>
SYNCBN_SIMT int largest_unit(std::uint32_t most) {
  if constexpr (std::is_same_v<Storage, float16>) return exact::kHalfSums.unit;
  const int unit = static_cast<int>(most >> 23) - 127 + 2 - kWindowBits;
  return unit < kLowestUnit ? kLowestUnit : unit > kHighestUnit ? kHighestUnit : unit;
}
/// The window of a kernel's first tile: |x| < 32 and multiples of 2^-40, but float16's constant window.
template <class Storage>
SYNCBN_SIMT Window first_window() {
  return window_at(std::is_same_v<Storage, float16> ? exact::kHalfSums.unit : -40);
}

/// Propagates the carries of a block's records, a thread each, with a barrier before and after.
template <class Storage>
SYNCBN_SIMT void propagate(BlockRecord<Storage>* records, unsigned count) {
  constexpr exact::SumFormat format = kFormat<Storage>;
  simt::barrier();
  const simt::Place place = simt::here();
  for (unsigned i = place.thread; i < 2 * count; i += place.threads) {
    BlockRecord<Storage>& record = records[i / 2];
    if (i % 2 == 0) {
      exact::propagate_carries(record.words, format.sum_digits);
    } else {
      exact::propagate_carries(record.products(), format.product_digits);
    }
  }
  simt::barrier();
}
/// Adds a block's records to those of the call, and clears them.
template <class Storage>
SYNCBN_SIMT void drain(BlockRecord<Storage>* records, unsigned count, std::int64_t* to) {
  constexpr int words = BlockRecord<Storage>::kWords;
  propagate(records, count);
  const simt::Place place = simt::here();
  for (unsigned i = place.thread; i < count * words; i += place.threads) {
    std::int64_t& word = records[i / words].words[i % words];
    if (word == 0) continue;
    if (i % words < static_cast<unsigned>(words) - 2) {
      simt::atomic_add(to + i, word);
    } else {
      simt::atomic_or(to + i, word);
    }
    word = 0;
  }
  simt::barrier();
}
template <class Storage>
SYNCBN_SIMT void clear(BlockRecord<Storage>* records, unsigned count) {
  const simt::Place place = simt::here();
  for (unsigned i = place.thread; i < count * BlockRecord<Storage>::kWords; i += place.threads) {
    records[i / BlockRecord<Storage>::kWords].words[i % BlockRecord<Storage>::kWords] = 0;
  }
  simt::barrier();
}

/// Channels-first: a block takes slices of one channel each. A warp has one window for a and one for b.
template <class Storage, Terms kTerms, int kWide>
SYNCBN_KERNEL void sum_channels_first(Operands<Storage> operands, ChannelsFirst g, std::int64_t* records) {
  constexpr bool kSquares = kTerms == Terms::squares;
  constexpr int kPacks = (kSquares ? 16 : 8) / kWide;
  using Values = Tile<Storage, kTerms, kPacks, kWide>;
  using Block = BlockRecord<Storage>;
  constexpr int kCount = Values::kCount;
  const simt::Place place = simt::here();
  Block& own = simt::shared<Block>();
  clear(&own, 1);

  Window wa = first_window<Storage>(), wb = wa;
  Accumulator<kSquares> sums;
  std::uint32_t count = 0;
  const auto flush = [&] {
    if (count == 0) return;  // alike in all threads of the warp
    Totals totals = sums.totals(count, wa, kSquares ? wa : wb);
    for (unsigned mask = simt::kWarp / 2; mask > 0; mask /= 2) totals = totals.plus_other(mask);
    if (place.thread % simt::kWarp == 0) add_totals(own, totals, unit_of(wa), unit_of(kSquares ? wa : wb));
    sums = {};
    count = 0;
  };
  const auto add = [&](const Values& tile) {
    if constexpr (std::is_same_v<Storage, double>) {
      for (int i = 0; i < kCount; ++i) add_element(own, tile.a[i], tile.b_of(i));
    } else {
      Fixed a[kCount], b[kSquares ? 1 : kCount];
      const auto misfit = [&] {
        Misfits of_a, of_b;
        SYNCBN_UNROLL
        for (int i = 0; i < kCount; ++i) {
          a[i] = split(tile.a[i], wa, of_a);
          if constexpr (!kSquares) b[i] = split(tile.b[i], wb, of_b);
        }
        return simt::any(of_a.exist() || of_b.exist());
      };
      if (count + kCount > kMostInAccumulator) flush();
      if (misfit()) {
        const auto unit = [&](const auto& values) {
          Extremes extremes;
          SYNCBN_UNROLL
          for (int i = 0; i < kCount; ++i) extremes.add(values[i]);
          return fitting_unit<Storage>({simt::max_of_warp(extremes.most), simt::min_of_warp(extremes.least)});
        };
        const int unit_a = unit(tile.a);
        int unit_b = unit_a;
        if constexpr (!kSquares) unit_b = unit(tile.b);
        bool fits = unit_a != kNoUnit && unit_b != kNoUnit;
        if (fits) {
          flush();
          wa = window_at(unit_a);
          wb = window_at(unit_b);
          fits = !misfit();  // the largest element may round up, out of the window
        }
        if (!fits) {
          SYNCBN_UNROLL
          for (int i = 0; i < kCount; ++i) add_element(own, tile.a[i], tile.b_of(i));
          return;
        }
      }
      SYNCBN_UNROLL
      for (int i = 0; i < kCount; ++i) sums.add(a[i], kSquares ? a[i] : b[kSquares ? 0 : i]);
      count += kCount;
    }
  };

  const std::int64_t items = g.channels * g.slices.count;
  for (std::int64_t item = place.block; item < items; item += place.blocks) {
    const std::int64_t channel = item / g.slices.count;
    const std::int64_t begin = item % g.slices.count * g.slices.length;
    const std::int64_t end = g.packs - begin < g.slices.length ? g.packs : begin + g.slices.length;
    // Packs are counted from the start of the row that the tile begins in.
    std::int64_t sample = begin / g.row.divisor, at = begin % g.row.divisor;
    int taken = 0;
    const std::int64_t step = static_cast<std::int64_t>(kPacks) * kAccumulateThreads;
    for (std::int64_t first = begin; first < end; first += step) {
      Values tile;
      SYNCBN_UNROLL
      for (int v = 0; v < kPacks; ++v) {
        const std::uint32_t ahead = static_cast<std::uint32_t>(v) * kAccumulateThreads + place.thread;
        if (first + ahead < end) {
          const std::int64_t rows = g.row.quotient(at + ahead);
          const std::int64_t row = (sample + rows) * g.channels + channel;
          tile.load(v, operands, (row * g.row.divisor + at + ahead - rows * g.row.divisor) * kWide);
        } else {
          tile.clear(v);
        }
      }
      add(tile);
      const std::int64_t rows = g.row.quotient(at + step);
      sample += rows;
      at += step - rows * g.row.divisor;
      taken += kCount * static_cast<int>(kAccumulateThreads);
      if (taken >= Block::kElementsBeforeCarry && first + step < end) {
        propagate(&own, 1);
        taken = 0;
      }
    }
    flush();
    drain(&own, 1, records + channel * Block::kWords);
  }
}

/// Channels-last: a block takes packs of channels side by side, and rows of positions. A thread has a window
/// for each of its channels.
template <class Storage, Terms kTerms, int kWide>
SYNCBN_KERNEL void sum_channels_last(Operands<Storage> operands, ChannelsLast g, std::int64_t* records) {
  constexpr bool kSquares = kTerms == Terms::squares;
  constexpr int kRows = kWide > 1 ? (kSquares ? 4 : 2) : 8;  // of a tile
  using Values = Tile<Storage, kTerms, kRows, kWide>;
  using Block = BlockRecord<Storage>;
  constexpr unsigned kMostChannels = std::is_same_v<Storage, double> ? 16 : 64;
  struct Shared {
    Block records[kMostChannels];
  };
  const simt::Place place = simt::here();
  Block* const own = simt::shared<Shared>().records;
  const unsigned side = g.columns * kWide;  // channels side by side
  clear(own, side);

  const unsigned column = place.thread % g.columns, row = place.thread / g.columns;
  const unsigned rows = kAccumulateThreads / g.columns;
  Window wa[kWide], wb[kSquares ? 1 : kWide];
  Accumulator<kSquares> sums[kWide];
  std::uint32_t count = 0;
  for (int k = 0; k < kWide; ++k) wa[k] = first_window<Storage>();
  if constexpr (!kSquares) {
    for (int k = 0; k < kWide; ++k) wb[k] = first_window<Storage>();
  }
  const auto b_window = [&](int k) -> Window& { return kSquares ? wa[k] : wb[kSquares ? 0 : k]; };
  const auto record_of = [&](int k) -> Block& { return own[column * kWide + static_cast<unsigned>(k)]; };
  const auto take = [&](int k) {
    const Totals totals = sums[k].totals(count, wa[k], b_window(k));
    sums[k] = {};
    return totals;
  };
  const auto flush = [&] {
    if (count == 0) return;
    SYNCBN_UNROLL
    for (int k = 0; k < kWide; ++k) add_totals(record_of(k), take(k), unit_of(wa[k]), unit_of(b_window(k)));
    count = 0;
  };
  const auto add = [&](const Values& tile) {
    if constexpr (std::is_same_v<Storage, double>) {
      for (int r = 0; r < kRows; ++r) add_element(record_of(0), tile.a[r], tile.b_of(r));
    } else {
      Fixed a[Values::kCount], b[kSquares ? 1 : Values::kCount];
      const auto split_one = [&](int i, Misfits& misfits) {
        a[i] = split(tile.a[i], wa[i % kWide], misfits);
        if constexpr (!kSquares) {
          Misfits of_b;
          b[i] = split(tile.b[i], wb[i % kWide], of_b);
          misfits.range |= of_b.range;
          misfits.lost |= of_b.lost;
        }
      };
      if (count + kRows > kMostInAccumulator) flush();
      Misfits misfits;
      SYNCBN_UNROLL
      for (int i = 0; i < Values::kCount; ++i) split_one(i, misfits);
      if (misfits.exist()) {
        // New windows for the largest elements. What does not fit goes to the digits, and a zero takes its
        // place.
        flush();
        SYNCBN_UNROLL
        for (int k = 0; k < kWide; ++k) {
          const auto move = [&, k](Window& window, const auto& values) {
            std::uint32_t most = 0;
            SYNCBN_UNROLL
            for (int r = 0; r < kRows; ++r) {
              const std::uint32_t size = simt::bits(values[r * kWide + k]) & 0x7fffffffu;
              if (size < 0x7f800000u && size > most) most = size;
            }
            if (most != 0) window = window_at(largest_unit<Storage>(most));
          };
          move(wa[k], tile.a);
          if constexpr (!kSquares) move(wb[k], tile.b);
          SYNCBN_UNROLL
          for (int r = 0; r < kRows; ++r) {
            const int i = r * kWide + k;
            Misfits here;
            split_one(i, here);
            if (!here.exist()) continue;
            add_element(record_of(k), tile.a[i], tile.b_of(i));
            a[i] = {wa[k].high, wa[k].low};
            if constexpr (!kSquares) b[i] = {wb[k].high, wb[k].low};
          }
        }
      }
      SYNCBN_UNROLL
      for (int i = 0; i < Values::kCount; ++i)
        sums[i % kWide].add(a[i], kSquares ? a[i] : b[kSquares ? 0 : i]);
      count += kRows;
    }
  };

  const std::int64_t groups = (g.channels + side - 1) / side;
  for (std::int64_t item = place.block; item < groups * g.slices.count; item += place.blocks) {
    const std::int64_t group = item / g.slices.count;
    const std::int64_t begin = item % g.slices.count * g.slices.length;
    const std::int64_t end = g.positions - begin < g.slices.length ? g.positions : begin + g.slices.length;
    const std::int64_t channel = group * side + column * kWide;
    int taken = 0;
    for (std::int64_t first = begin; first < end; first += kRows * rows) {
      Values tile;
      SYNCBN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t position = first + static_cast<unsigned>(r) * rows + row;
        if (position < end && channel < g.channels) {
          tile.load(r, operands, position * g.channels + channel);
        } else {
          tile.clear(r);
        }
      }
      add(tile);
      taken += kRows * static_cast<int>(rows);
      if (taken >= Block::kElementsBeforeCarry && first + kRows * rows < end) {
        propagate(own, side);
        taken = 0;
      }
    }
    if constexpr (!std::is_same_v<Storage, double>) {
      SYNCBN_UNROLL
      for (int k = 0; k < kWide; ++k) {
        // Threads of one column whose windows are alike add up before they go to the digits.
        bool alike = true;
        for (unsigned mask = g.columns; mask < simt::kWarp; mask *= 2) {
          alike &= simt::shuffle_xor(wa[k].low, mask) == wa[k].low;
          alike &= simt::shuffle_xor(b_window(k).low, mask) == b_window(k).low;
        }
        const bool joined = !simt::any(!alike);
        Totals totals = take(k);
        if (joined) {
          for (unsigned mask = g.columns; mask < simt::kWarp; mask *= 2) totals = totals.plus_other(mask);
        }
        if (!joined || place.thread % simt::kWarp < g.columns)
          add_totals(record_of(k), totals, unit_of(wa[k]), unit_of(b_window(k)));
      }
      count = 0;
    }
    const std::int64_t left = g.channels - group * side;
    drain(own, left < side ? static_cast<unsigned>(left) : side, records + group * side * Block::kWords);
  }
}

}  // namespace syncbn::device
