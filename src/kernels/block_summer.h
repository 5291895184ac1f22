// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "exact/record.h"
#include "kernels/sum_block.h"

namespace syncbn::kernels {

/// Sets the record's flags for the terms of its channel that are not finite.
template <class Storage>
void flag_specials(const Rows<Storage>& terms, exact::Record record);

/// Sums the blocks of one channel after another, in the window of the last blocks. The sums stay in the
/// window's units until the window moves; if it never moves, the record gets them as window sums. A block
/// that does not fit is summed again on levels (levels.h), into the record's digits.
template <class Storage>
class BlockSummer {
 public:
  BlockSummer();

  /// Elements of one step of the accumulators: BlockLoops::step.
  std::size_t step() const { return loops_.step(); }
  /// `terms`: at most kMaxAdditions to an accumulator.
  void add(const Rows<Storage>& terms, exact::Record record);
  /// Completes the record after its last block. The blocks of another record may follow.
  void complete(exact::Record record);

 private:
  exact::WindowSums window_sums() const { return window_.sums(sums_.sum, sums_.high, sums_.low); }
  void add_by_levels(const Rows<Storage>& terms, OperandRange a, OperandRange b, exact::Record record);
  void drain(exact::Record record);
  void count_adds(int adds, exact::Record record);

  const BlockLoops<Storage>& loops_;
  int a_exponent_ = 2;
  int b_exponent_ = 2;
  Window window_;
  BlockSum sums_{};          // in the window's units; only the three sums are used
  int blocks_ = 0;           // since the sums were last drained
  int adds_ = 0;             // to a digit of the record, since the last propagation of carries
  bool has_digits_ = false;  // whether the record is already digits
};

}  // namespace syncbn::kernels
