// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include "syncbn/sync_batch_norm.h"

namespace syncbn::python {

/// Adds ForwardContext, and the calls of a layer on NumPy arrays.
void bind_arrays(nanobind::module_& module, nanobind::class_<SyncBatchNorm>& layer);

}  // namespace syncbn::python
