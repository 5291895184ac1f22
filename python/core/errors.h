#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Lets every syncbn::Error cross the border as the class of its name in syncbn._errors.
void bind_errors(nanobind::module_& module);

}  // namespace syncbn::python
