#pragma once

#include <cstdint>

#include "exact/exact_sum.h"
#include "kernels/sum_block.h"

namespace syncbn::kernels {

/// Sets the flags of the terms of one channel that are not finite.
template <class Storage>
void flag_specials(const Rows<Storage>& terms, std::int64_t* record);

/// Sums of blocks of one channel after the other, in the window where the last blocks lay. The sums are kept
/// in that window's units as long as it does not move; if it never does, these are what the record gets
/// (exact/window_sums.h). A block that does not fit is summed again, on levels (levels.h), and goes to
/// the record's digits.
template <class Storage>
class BlockSummer {
 public:
  BlockSummer();

  /// `terms` within kMaxAdditions.
  void add(const Rows<Storage>& terms, std::int64_t* record);
  /// Sets the record, after its last block; another one's may follow.
  void finish(std::int64_t* record);

 private:
  void add_by_levels(const Rows<Storage>& terms, OperandRange a, OperandRange b, std::int64_t* record);
  void drain(std::int64_t* record);
  std::int64_t* digits(std::int64_t* record);
  void count_adds(int adds, std::int64_t* record);

  const exact::SumFormat& format_;
  int a_exponent_ = 2;
  int b_exponent_ = 2;
  Window window_;
  BlockSum sums_{};          // in the window's units; its ranges are not used
  int blocks_ = 0;           // since the sums were last drained
  int adds_ = 0;             // to the record, since it was last normalised
  bool has_digits_ = false;  // the record
};

}  // namespace syncbn::kernels
