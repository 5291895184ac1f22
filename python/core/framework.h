// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Adds FrameworkLayer, a layer whose parameters and buffers belong to a framework.
void bind_framework(nanobind::module_& module);

}  // namespace syncbn::python
