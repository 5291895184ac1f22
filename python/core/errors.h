#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Lets every syncbn::Error cross the border as the class of its name in syncbn._errors, and Ctrl-C end
/// waits.
void bind_errors(nanobind::module_& module);

/// A Python exception on its way through the C++ layers, where an error is text: kept beside it, for this
/// thread, until the error has crossed the border. It becomes the error's cause.
void keep_exception(nanobind::handle exception);
void forget_exception();

}  // namespace syncbn::python
