// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Translates each syncbn::Error to the Python class of the same name, and lets Ctrl-C end waits.
void bind_errors(nanobind::module_& module);

/// Keeps a Python exception for this thread while C++ code, where an error is text, unwinds. When the error
/// is translated, the exception becomes its cause.
void keep_exception(nanobind::handle exception);
void forget_exception();

}  // namespace syncbn::python
