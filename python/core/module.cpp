// The extension module syncbn._core: the C++ core as Python sees it. Names, checks and documentation for
// users are in the Python sources.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "engines.h"
#include "errors.h"
#include "framework.h"
#include "groups.h"
#include "layer.h"
#include "syncbn/isa.h"
#include "syncbn/threads.h"
#include "syncbn/version.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
  // A framework may keep objects of ours, in a graph of its own, until there is no interpreter to give them
  // back to.
  nanobind::set_leak_warnings(false);
  m.attr("version") = SYNCBN_VERSION;
  m.attr("bits_version") = syncbn::kBitsVersion;
  syncbn::python::load_engines_on_demand();
  syncbn::python::bind_errors(m);
  syncbn::python::bind_groups(m);
  syncbn::python::bind_layer(m);
  syncbn::python::bind_framework(m);
  m.def("get_num_threads", &syncbn::get_num_threads,
        "Return the number of threads that one call on this thread may use.");
  m.def("set_num_threads", &syncbn::set_num_threads, nb::arg("count"),
        "Set it for calls from this thread; 0 restores the default. The results' bits do not depend on it.");
  m.def("available_isas", &syncbn::available_isas,
        "Return the instruction sets that this build and this machine share, best first.");
  m.def("active_isa", &syncbn::active_isa, "Return the one in use: SYNCBN_ISA, else the best.");
}
