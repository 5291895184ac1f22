// SPDX-License-Identifier: Apache-2.0
#include "kernels/accumulate.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <type_traits>

#include "base/parallel_for.h"
#include "exact/record.h"
#include "kernels/block_summer.h"
#include "kernels/double_summer.h"
#include "kernels/lane_summer.h"
#include "kernels/plan.h"
#include "kernels/reference.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

// Channels-last: number of channels that are summed side by side. Their accumulators stay in a core's first
// cache, and their piece of a row is long enough for memory.
constexpr std::int64_t kChannelsTogether = 256;
constexpr std::int64_t kDoublesTogether = 64;  // the same for doubles, whose sums are wider
// Channels-last: fewer positions are not worth a task, because a task must merge the sums of every channel.
constexpr std::int64_t kSlicePositions = 2048;

template <class Storage>
Rows<Storage> terms_at(const Operand& a, const Operand& b, std::int64_t offset) {
  const auto at = [offset](const void* data) {
    return data == nullptr ? nullptr : static_cast<const Storage*>(data) + offset;
  };
  return {at(a.values), at(b.values), at(a.mask), 0, 0, 0};
}

// Channels-first: size of a block in steps of its accumulators. A row of n elements takes ⌈n / step⌉ steps.
struct BlockSize {
  std::int64_t step, steps;
};

// Calls body(terms) for the positions of a part of one channel, in blocks of whole rows. Rows that are too
// long for a block are cut into pieces of about the same length.
template <class Storage, class Body>
void for_each_block(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                    std::int64_t channel, const BlockSize& size, const Body& body) {
  const std::int64_t pieces = (g.spatial + size.step * size.steps - 1) / (size.step * size.steps);
  const std::int64_t piece = (g.spatial + pieces - 1) / pieces;
  const std::int64_t rows_together =
      std::max<std::int64_t>(size.steps / ((piece + size.step - 1) / size.step), 1);
  for (std::int64_t position = part.begin; position < part.end;) {
    const std::int64_t place = position % g.spatial;
    const std::int64_t left = part.end - position;
    const std::int64_t n = std::min({piece - place % piece, g.spatial - place, left});
    const std::int64_t rows = n == g.spatial ? std::min(rows_together, left / n) : 1;
    Rows<Storage> terms = terms_at<Storage>(a, b, g.offset(channel, position));
    terms.rows = static_cast<std::size_t>(rows);
    terms.n = static_cast<std::size_t>(n);
    terms.stride = static_cast<std::size_t>(place + n < g.spatial ? n : g.channels * g.spatial);
    body(terms);
    position += rows * n;
  }
}

template <class Storage>
void sum_channels_first(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                        exact::Records records) {
  if constexpr (std::is_same_v<Storage, double>) {
    DoubleSummer summer;
    for (std::int64_t c = 0; c < part.channels; ++c) {
      summer.begin(1, records.from(c));
      for_each_block<double>(a, b, g, part, part.channel + c,
                             {static_cast<std::int64_t>(summer.step()), kMaxDoublePairs},
                             [&](const Rows<double>& terms) { summer.add(terms); });
      summer.complete();
    }
  } else {
    BlockSummer<Storage> summer;
    for (std::int64_t c = 0; c < part.channels; ++c) {
      for_each_block<Storage>(a, b, g, part, part.channel + c,
                              {static_cast<std::int64_t>(summer.step()), kMaxAdditions},
                              [&](const Rows<Storage>& terms) { summer.add(terms, records[c]); });
      summer.complete(records[c]);
    }
  }
}

// Calls body(terms) for blocks of positions; the terms are those of the part's first channel.
template <class Storage, class Body>
void for_each_stretch(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                      std::size_t positions, const Body& body) {
  const auto step = static_cast<std::int64_t>(positions);
  for (std::int64_t position = part.begin; position < part.end; position += step) {
    Rows<Storage> terms = terms_at<Storage>(a, b, g.offset(part.channel, position));
    terms.rows = static_cast<std::size_t>(std::min(step, part.end - position));
    terms.n = 1;
    terms.stride = static_cast<std::size_t>(g.channels);
    body(terms);
  }
}

// A copy of the last channels, fewer than kLanes, with zeros beside them.
template <class Storage>
class LaneTile {
 public:
  Rows<Storage> copy(const Rows<Storage>& from, std::size_t channels) {
    const auto fill = [&](const Storage* data, Tile& tile) -> const Storage* {
      for (std::size_t row = 0; row < from.rows; ++row) {
        std::fill(std::copy_n(data + row * from.stride, channels, tile[row].begin()), tile[row].end(),
                  Storage{});
      }
      return tile[0].data();
    };
    const Storage* a = fill(from.a, a_);
    return {a,
            from.squares() ? a : fill(from.b, b_),
            from.mask == nullptr ? nullptr : fill(from.mask, mask_),
            from.rows,
            kLanes,
            kLanes};
  }

 private:
  using Tile = std::array<std::array<Storage, kLanes>, kMaxAdditions>;
  Tile a_, b_, mask_;
};

// Sums up to kChannelsTogether channels.
template <class Storage>
void sum_side_by_side(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                      exact::Records records) {
  std::array<LaneSummer<Storage>, kChannelsTogether / kLanes> summers;
  LaneTile<Storage> tile;
  const auto channels = static_cast<std::size_t>(part.channels);
  bool begun = false;
  for_each_stretch<Storage>(a, b, g, part, kMaxAdditions, [&](const Rows<Storage>& first) {
    for (std::size_t c = 0; c < channels; c += kLanes) {
      const std::size_t count = std::min(kLanes, channels - c);
      Rows<Storage> terms = first.part(c, first.n);
      if (count < kLanes) terms = tile.copy(terms, count);
      LaneSummer<Storage>& summer = summers[c / kLanes];
      if (!begun) summer.begin(terms, count, records.from(static_cast<std::int64_t>(c)));
      summer.add(terms);
    }
    begun = true;
  });
  for (std::size_t c = 0; c < channels; c += kLanes) summers[c / kLanes].complete();
}

// The same for doubles.
void sum_doubles_side_by_side(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                              exact::Records records) {
  const auto channels = static_cast<std::size_t>(part.channels);
  const std::size_t step = double_loops().lanes();
  std::array<std::optional<DoubleSummer>, kDoublesTogether / 2> summers;  // vectors have two lanes at least
  for_each_stretch<double>(a, b, g, part, kMaxDoublePairs, [&](const Rows<double>& first) {
    for (std::size_t c = 0; c < channels; c += step) {
      std::optional<DoubleSummer>& summer = summers[c / step];
      const Rows<double> terms = first.part(c, std::min(step, channels - c));
      if (!summer) {
        summer.emplace(c == 0 ? DoubleWindow{} : summers[c / step - 1]->window());
        summer->begin(terms.n, records.from(static_cast<std::int64_t>(c)));
      }
      summer->add(terms);
    }
  });
  for (std::size_t c = 0; c < channels; c += step) summers[c / step]->complete();
}

// Few channels: sums several rows as one row, each element apart, then merges the records of each channel.
template <class Storage>
void sum_folded(const Operand& a, const Operand& b, const Geometry& g, const Part& part, std::int64_t rows,
                exact::Records records) {
  const std::int64_t folded = (part.end - part.begin) / rows;
  const auto from = [&](const Operand& operand) {
    const auto at = [&](const void* data) -> const void* {
      return data == nullptr ? nullptr : static_cast<const Storage*>(data) + part.begin * g.channels;
    };
    return Operand{at(operand.values), at(operand.mask)};
  };
  const Geometry wide{g.dtype, Layout::channels_last, 1, rows * g.channels, folded};
  std::array<std::int64_t, kLocalWords> words;
  const exact::Records sums(words.data(), records.format());
  sum_side_by_side<Storage>(from(a), from(b), wide, whole(wide), sums);
  reference::accumulate(a, b, g, {0, g.channels, part.begin + folded * rows, part.end}, records);
  for (std::int64_t i = 0; i < wide.channels; ++i) {
    records[i % g.channels].merge(sums[i]);
  }
}

template <class Storage>
void sum_channels_last(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                       exact::Records records) {
  if constexpr (!std::is_same_v<Storage, double>) {
    const std::int64_t rows = rows_in_one(g, part);
    if (rows > 1) return sum_folded<Storage>(a, b, g, part, rows, records);
  }
  constexpr std::int64_t together = std::is_same_v<Storage, double> ? kDoublesTogether : kChannelsTogether;
  for (std::int64_t c = 0; c < part.channels; c += together) {
    const Part some{part.channel + c, std::min(together, part.channels - c), part.begin, part.end};
    if constexpr (std::is_same_v<Storage, double>) {
      sum_doubles_side_by_side(a, b, g, some, records.from(c));
    } else {
      sum_side_by_side<Storage>(a, b, g, some, records.from(c));
    }
  }
}

}  // namespace

template <class Storage>
void accumulate_part(const Operand& a, const Operand& b, const Geometry& g, const Part& part,
                     exact::Records records) {
  // The summers of 16 and 32 bits set the records, sum_doubles adds to them.
  if (part.begin == part.end || std::is_same_v<Storage, double>) records.clear(part.channels);
  if (part.begin == part.end) return;
  (g.layout == Layout::channels_last ? sum_channels_last<Storage>
                                     : sum_channels_first<Storage>)(a, b, g, part, records);
}
template void accumulate_part<float16>(const Operand&, const Operand&, const Geometry&, const Part&,
                                       exact::Records);
template void accumulate_part<bfloat16>(const Operand&, const Operand&, const Geometry&, const Part&,
                                        exact::Records);
template void accumulate_part<float>(const Operand&, const Operand&, const Geometry&, const Part&,
                                     exact::Records);
template void accumulate_part<double>(const Operand&, const Operand&, const Geometry&, const Part&,
                                      exact::Records);

void accumulate(AccumulatePart accumulate_part, const Operand& a, const Operand& b, const Geometry& g,
                exact::Records records, Use use) {
  const std::int64_t positions = g.positions();
  const std::int64_t tasks = std::clamp<std::int64_t>(g.elements() / kTaskElements, 1, 8 * get_num_threads());
  // By channels first, then by positions until every thread has some; in channels-last the other way round,
  // so that memory is read in long pieces. The sums don't care.
  std::int64_t width = 1, slices = 1;
  const std::int64_t widest = std::min(kChannelsTogether, kLocalWords / records.format().words() / 8 * 8);
  if (g.layout == Layout::channels_last) {
    slices = std::clamp<std::int64_t>(positions / kSlicePositions, 1, tasks);
    const std::int64_t columns = (tasks + slices - 1) / slices;
    constexpr auto lanes = static_cast<std::int64_t>(kLanes);
    width = std::min(((g.channels + columns - 1) / columns + lanes - 1) / lanes * lanes, widest);
  } else {
    width = std::min((g.channels + tasks - 1) / tasks, widest);
    slices = std::max<std::int64_t>(tasks * width / g.channels, 1);
  }
  const std::int64_t columns = (g.channels + width - 1) / width;
  const auto expand = [](exact::Records some, std::int64_t channels) {
    for (std::int64_t c = 0; c < channels; ++c) some[c].expand();
  };
  if (slices > 1) {
    for (std::int64_t c = 0; c < g.channels; ++c) records[c].set({});
  }
  std::mutex merging;
  base::parallel_for(static_cast<int>(columns * slices), [&](int task) {
    const std::int64_t channel = task % columns * width;
    const std::int64_t slice = task / columns;
    const Part part{channel, std::min(width, g.channels - channel), positions * slice / slices,
                    positions * (slice + 1) / slices};
    const exact::Records own = records.from(channel);
    if (slices == 1) {
      accumulate_part(a, b, g, part, own);
      if (use == Use::wire) expand(own, part.channels);
      return;
    }
    std::array<std::int64_t, kLocalWords> words;
    const exact::Records local(words.data(), records.format());
    accumulate_part(a, b, g, part, local);
    const std::lock_guard lock(merging);
    for (std::int64_t c = 0; c < part.channels; ++c) own[c].merge(local[c]);
  });
  if (slices > 1 && use == Use::wire) expand(records, g.channels);
}

}  // namespace syncbn::kernels
