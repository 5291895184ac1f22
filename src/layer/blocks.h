#pragma once

#include <algorithm>
#include <cstdint>

#include "base/parallel_for.h"
#include "exact/record.h"
#include "kernels/batch.h"
#include "syncbn/threads.h"

/// Where a rank needs no other's sums, some channels at a time go through all steps (sums, coefficients,
/// results) while their elements are in a core's cache: memory is read once.
namespace syncbn::layer {

/// How many channels go together; 0 where it pays more to take each step for all channels. `tensors`: how
/// many are read.
std::int64_t channels_together(const kernels::Geometry& geometry, int tensors);

/// Words of the records of the channels of a block.
inline constexpr std::int64_t kBlockWords = 6144;

/// body(part, records) for each block of channels, in parallel; its records are to be set.
template <class Body>
void for_each_block(const kernels::Geometry& geometry, std::int64_t together, const Body& body) {
  const std::int64_t blocks = (geometry.channels + together - 1) / together;
  // A thread takes neighbours one after the other: while it writes one, the next is fetched into its core's
  // cache.
  const std::int64_t tasks = std::min<std::int64_t>(blocks, 4 * get_num_threads());
  base::parallel_for(static_cast<int>(tasks), [&](int task) {
    for (std::int64_t block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block) {
      const std::int64_t channel = block * together;
      const std::int64_t channels = std::min(together, geometry.channels - channel);
      std::int64_t words[kBlockWords];
      body(kernels::Part{channel, channels, 0, geometry.positions()},
           exact::Records(words, exact::sum_format(geometry.dtype)));
    }
  });
}

}  // namespace syncbn::layer
