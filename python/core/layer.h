#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Layer and Saved.
void bind_layer(nanobind::module_& module);

}  // namespace syncbn::python
