#pragma once

#include <nanobind/nanobind.h>

#include "syncbn/sync_batch_norm.h"

namespace syncbn::python {

/// Pass, and a layer's calls on NumPy arrays.
void bind_arrays(nanobind::module_& module, nanobind::class_<SyncBatchNorm>& layer);

}  // namespace syncbn::python
