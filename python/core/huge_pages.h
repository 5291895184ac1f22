// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

namespace syncbn::python {

/// Adds prefer_huge_pages.
void bind_huge_pages(nanobind::module_& module);

}  // namespace syncbn::python
