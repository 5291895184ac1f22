#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Layer, and what its calls are made of.
void bind_layer(nanobind::module_& module);

}  // namespace syncbn::python
