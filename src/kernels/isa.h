#pragma once

// Include after <hwy/foreach_target.h> where that is used: HWY_TARGETS must be the including file's own.
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstddef>

namespace syncbn::kernels {

/// The instruction set in use, as Highway's dispatch tables want it. The library keeps a choice of its own:
/// the host program may use Highway too.
const hwy::ChosenTarget& chosen_target();
/// No vector code: the reference runs.
bool use_reference();

/// Index into a table of HWY_EXPORT.
inline std::size_t target_index() {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
  return 0;
#else
  return chosen_target().GetIndex();
#endif
}

}  // namespace syncbn::kernels
