#pragma once

#include <cstdint>

#include "exact/exact_sum.h"
#include "kernels/sum_block.h"

namespace syncbn::kernels {

/// Sets the flags of the terms of one channel that are not finite.
template <class Storage>
void flag_specials(const Rows<Storage>& terms, std::int64_t* record);

/// Adds blocks of one channel to its record, in the window where the last blocks lay; a block that does not
/// fit is summed again, window by window.
template <class Storage>
class BlockSummer {
 public:
  BlockSummer();

  /// `terms` within kMaxAdditions.
  void add(const Rows<Storage>& terms, std::int64_t* record);
  /// To be called for a record after its last block, or when another record's blocks come.
  void finish(std::int64_t* record);

 private:
  void add_by_windows(const Rows<Storage>& terms, const BlockSum& seen, std::int64_t* record);
  void add_sum(const BlockSum& sums, const Window& window, std::int64_t* record);
  void add_products(const BlockSum& sums, const Window& window, std::int64_t* record);

  const exact::SumFormat& format_;
  int a_exponent_ = 2;
  int b_exponent_ = 2;
  Window window_;
  int adds_ = 0;
};

}  // namespace syncbn::kernels
