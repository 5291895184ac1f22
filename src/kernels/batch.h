#pragma once

#include <cstdint>

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

}  // namespace syncbn::kernels
