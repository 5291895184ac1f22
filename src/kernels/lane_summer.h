// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "exact/record.h"
#include "kernels/sum_lanes.h"

namespace syncbn::kernels {

/// Sums kLanes neighbouring channels in channels-last. Each channel has its own window, aimed at its last
/// elements. Its sums stay in the window's units until the window moves; if it never moves, the record gets
/// them as window sums. The channels of a block that do not fit are summed again on levels (levels.h), into
/// their records' digits.
template <class Storage>
class LaneSummer {
 public:
  /// Must be called first. `terms`: the first rows, at which the windows are aimed. `records`: those of the
  /// first `channels` lanes, to be set; the sums of the other lanes are dropped.
  void begin(const Rows<Storage>& terms, std::size_t channels, exact::Records records);

  /// `terms`: up to kMaxAdditions rows of kLanes elements.
  void add(const Rows<Storage>& terms);
  /// Completes the records. Must be called once, after the last block.
  void complete();

 private:
  void aim(std::size_t lane, int a_exponent, int b_exponent);
  void move_to(std::size_t lane, OperandRange a, OperandRange b);
  void drain(std::size_t lane);
  void count_adds(int adds);
  Window window(std::size_t lane) const;
  exact::WindowSums window_sums(std::size_t lane) const;
  exact::Record record(std::size_t lane) const;
  exact::Record digits(std::size_t lane);
  void add_by_levels(const Rows<Storage>& terms, const LaneRanges& seen);

  const LaneLoops<Storage>* loops_;
  std::size_t channels_;
  std::int64_t* records_;  // of the format of Storage
  LaneWindows windows_;
  LaneSums sums_;
  std::array<int, kLanes> a_exponent_, b_exponent_;  // of the windows
  std::array<bool, kLanes> has_digits_;              // whether the record is already digits
  int blocks_;                                       // since the sums were last drained
  int adds_;  // to a digit of the records, since the last propagation of carries
};

}  // namespace syncbn::kernels
