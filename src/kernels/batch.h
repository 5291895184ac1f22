#pragma once

#include <cstdint>
#include <numeric>

#include "syncbn/dtype.h"
#include "syncbn/tensor.h"

namespace syncbn::kernels {

/// How the tensors of one call lie in memory; all of them alike.
struct Geometry {
  DType dtype;
  Layout
      layout;  ///< channels_first; channels_last also where spatial == 1, for then both are the same memory.
  std::int64_t samples;
  std::int64_t channels;
  std::int64_t spatial;

  std::int64_t positions() const { return samples * spatial; }  ///< Elements per channel.
  std::int64_t elements() const { return positions() * channels; }
  /// Element of `channel` at `position` = sample · spatial + place.
  std::int64_t offset(std::int64_t channel, std::int64_t position) const {
    if (layout == Layout::channels_last) return position * channels + channel;
    return (position / spatial * channels + channel) * spatial + position % spatial;
  }
};

/// What one task works on: some channels at some positions.
struct Part {
  std::int64_t channel, channels;
  std::int64_t begin, end;  ///< Positions.
};
inline Part whole(const Geometry& g) { return {0, g.channels, 0, g.positions()}; }

/// Channels-last: how many rows of the part follow on one another and together are whole vectors of every
/// instruction set, in which each element keeps its channel. 1 where that does not pay.
inline constexpr std::int64_t kFoldedRow = 256;  // the longest
inline std::int64_t rows_in_one(const Geometry& g, const Part& part) {
  constexpr std::int64_t kWholeVectors = 32, kPositions = 512;
  if (g.layout != Layout::channels_last || part.channels != g.channels || part.end - part.begin < kPositions)
    return 1;
  const std::int64_t rows = kWholeVectors / std::gcd(kWholeVectors, g.channels);
  return rows * g.channels <= kFoldedRow ? rows : 1;
}

}  // namespace syncbn::kernels
