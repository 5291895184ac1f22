// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "exact/record.h"
#include "kernels/sum_double_lanes.h"

namespace syncbn::kernels {

/// Largest exponents of the elements of a lane. A lane is exact for elements that span at most kSpan octaves.
struct DoubleWindow {
  /// One pass has two levels for Σa. They reach 2·kLevelBits - 1 octaves below the largest element's
  /// exponent, and an element's last bit lies 52 octaves below its exponent. The four levels of Σa·b reach as
  /// far.
  static constexpr int kSpan = 2 * kLevelBits - 1 - 52;

  int a = 4, b = 4;

  bool holds(const DoubleLaneSums& sums, std::size_t lane, bool squares) const;
  /// The window for elements like those of a lane, with one octave to spare.
  static DoubleWindow around(const DoubleLaneSums& sums, std::size_t lane, bool squares);
  Levels levels() const { return levels_at(a, b, 1); }
};

/// Sums doubles of neighbouring channels, each in a lane of its own, or of one channel in all lanes. Each
/// channel has a window, aimed at its last elements. A channel of a block that does not fit is summed by
/// sum_doubles.
class DoubleSummer {
 public:
  /// `guess`: the first window of all channels.
  explicit DoubleSummer(DoubleWindow guess = {});

  /// Window of the first channel.
  DoubleWindow window() const { return windows_[0]; }
  /// Elements of one step: the number of lanes.
  std::size_t step() const { return loops_.lanes(); }
  /// Must be called first. The summer adds to the records of `channels`, which hold digits with propagated
  /// carries.
  void begin(std::size_t channels, exact::Records records);
  /// `terms`: at most kMaxDoublePairs to a lane. Several channels: rows of one element of each.
  void add(const Rows<double>& terms);
  /// Completes the records after the last block. Another begin() may follow.
  void complete();

 private:
  bool sum(const Rows<double>& terms, DoubleLaneSums& sums, bool aim);
  void drain(std::size_t channel);
  void move(std::size_t channel, DoubleWindow to);
  exact::Record record(std::size_t channel) const {
    return exact::Records(records_, exact::sum_format(DType::float64))[static_cast<std::int64_t>(channel)];
  }

  const DoubleLoops& loops_;
  std::size_t channels_ = 0;
  std::int64_t* records_ = nullptr;
  std::array<DoubleWindow, kDoubleLanes> windows_;
  DoubleLaneStarts starts_;
  std::array<LevelSums, kDoubleLanes> totals_{};  // in the units of the windows' levels
  int blocks_ = 0;                                // since the totals were last drained
};

}  // namespace syncbn::kernels
