// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <vector>

#include "group/agreed_sum.h"
#include "group/group.h"

namespace syncbn::layer {

/// Sums `rows` value rows of `words` words over a group, some of them a message. write(first, count, message)
/// adds this rank's terms to zeros, read(first, count, message) takes the sums. check() comes first. If a
/// step fails on this rank alone, the peers get a PeerError instead of waiting.
template <class Check, class Write, class Read>
void sum_rows(Group& group, const group::CallDescription& call, std::size_t rows, int words,
              const Check& check, const Write& write, const Read& read) {
  constexpr std::size_t kRowsAtOnce = 8192;  // a message of values: 0.5 MB of float32, 3 MB of float64
  std::vector<std::int64_t> message;
  std::size_t first = 0;
  do {  // no rows are a call, too
    const std::size_t count = std::min(kRowsAtOnce, rows - first);
    try {
      if (first == 0) check();
      message.assign(count * static_cast<std::size_t>(words), 0);
      write(first, count, std::span(message));
    } catch (const std::exception& error) {
      group.fail(call, error.what());
      throw;
    }
    group.sum(call, message);
    read(first, count, std::span<const std::int64_t>(message));
    first += count;
  } while (first < rows);
}

}  // namespace syncbn::layer
