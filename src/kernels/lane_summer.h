#pragma once

#include <array>
#include <cstdint>

#include "exact/exact_sum.h"
#include "kernels/sum_lanes.h"

namespace syncbn::kernels {

/// Sums of kLanes neighbouring channels in channels-last. Each channel has its own window, where its last
/// elements lay, and its sums are kept in that window's units as long as it does not move: if it never does,
/// these are what its record gets (exact/window_sums.h). Those of a block that does not fit are summed again,
/// on levels (levels.h), and go to the record's digits.
template <class Storage>
class LaneSummer {
 public:
  /// To be called first. `terms`: the first rows to come, from which the windows are aimed. `records`: to be
  /// set, one for each of the first `channels` lanes; the others are not kept.
  void start(const Rows<Storage>& terms, std::size_t channels, std::int64_t* records);

  /// `terms`: up to kMaxAdditions rows of kLanes elements.
  void add(const Rows<Storage>& terms);
  /// To be called once, after the last block.
  void finish();

 private:
  void aim(std::size_t lane, int a_exponent, int b_exponent);
  void move_to(std::size_t lane, OperandRange a, OperandRange b);
  void drain(std::size_t lane);
  void count_adds(int adds);
  static const exact::SumFormat& format() { return exact::sum_format(dtype_of<Storage>); }
  Window window(std::size_t lane) const;
  std::int64_t* record(std::size_t lane);
  std::int64_t* digits(std::size_t lane);
  void add_by_levels(const Rows<Storage>& terms, const LaneRanges& seen);

  std::size_t channels_;
  std::int64_t* records_;
  LaneWindows windows_;
  LaneSums sums_;
  std::array<int, kLanes> a_exponent_, b_exponent_;  // of the windows
  std::array<bool, kLanes> has_digits_;              // whose record is digits already
  int blocks_;                                       // since the sums were last drained
  int adds_;                                         // to the records, since they were last normalised
};

}  // namespace syncbn::kernels
