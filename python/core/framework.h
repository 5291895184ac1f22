#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// FrameworkLayer: a layer without a value of its own.
void bind_framework(nanobind::module_& module);

}  // namespace syncbn::python
