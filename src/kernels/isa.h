// SPDX-License-Identifier: Apache-2.0
#pragma once

// Include after <hwy/foreach_target.h> where that is used: HWY_TARGETS must be the including file's own.
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstddef>

namespace syncbn::kernels {

/// The instruction set in use, for Highway's dispatch tables. The choice is the library's own, because the
/// host program may use Highway too.
const hwy::ChosenTarget& chosen_target();
/// Whether the instruction set in use has vector code; else the plain loops run.
bool has_vector_code();

/// Index into a table of HWY_EXPORT.
inline std::size_t target_index() {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0
  return 0;
#else
  return chosen_target().GetIndex();
#endif
}

}  // namespace syncbn::kernels
