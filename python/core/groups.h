// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "syncbn/group.h"

namespace syncbn::python {

/// A group that Python holds, for a layer's process_group.
struct GroupHandle {
  std::shared_ptr<Group> group;
};

/// Adds init, run_ranks, all_reduce_sum, all_reduce_matmul and the functions on groups.
void bind_groups(nanobind::module_& module);

}  // namespace syncbn::python
