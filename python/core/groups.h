#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "syncbn/group.h"

namespace syncbn::python {

/// A group for a layer's process_group, as Python holds it.
struct GroupHandle {
  std::shared_ptr<Group> group;
};

/// init, create_group and their kin, run_ranks.
void bind_groups(nanobind::module_& module);

}  // namespace syncbn::python
