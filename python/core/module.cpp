// SPDX-License-Identifier: Apache-2.0

// The extension module syncbn._core: the C++ core for the Python sources, which add names, checks and
// documentation for users.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "engines.h"
#include "errors.h"
#include "framework.h"
#include "groups.h"
#include "huge_pages.h"
#include "layer.h"
#include "syncbn/isa.h"
#include "syncbn/threads.h"
#include "syncbn/version.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  // A framework may keep objects of this module in its graphs until the interpreter has ended.
  nanobind::set_leak_warnings(false);
  m.attr("version") = SYNCBN_VERSION;
  m.attr("bits_version") = syncbn::kBitsVersion;
  syncbn::python::load_engines_on_demand();
  syncbn::python::bind_errors(m);
  syncbn::python::bind_groups(m);
  syncbn::python::bind_layer(m);
  syncbn::python::bind_framework(m);
  syncbn::python::bind_huge_pages(m);
  m.def("get_num_threads", &syncbn::get_num_threads);
  m.def("set_num_threads", &syncbn::set_num_threads, nb::arg("count"));
  m.def("available_isas", &syncbn::available_isas);
  m.def("active_isa", &syncbn::active_isa);
}
