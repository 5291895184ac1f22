// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Adds Layer and its enums.
void bind_layer(nanobind::module_& module);

}  // namespace syncbn::python
