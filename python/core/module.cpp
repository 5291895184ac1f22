// The extension module syncbn._core: the C++ core as Python sees it. Names, checks and documentation for
// users are in the Python sources.
#include <nanobind/nanobind.h>

#include "engines.h"
#include "errors.h"
#include "framework.h"
#include "groups.h"
#include "layer.h"
#include "syncbn/version.h"

NB_MODULE(_core, m) {
  // A framework may keep objects of ours, in a graph of its own, until there is no interpreter to give them
  // back to.
  nanobind::set_leak_warnings(false);
  m.attr("__version__") = SYNCBN_VERSION;
  m.attr("bits_version") = syncbn::kBitsVersion;
  syncbn::python::load_engines_on_demand();
  syncbn::python::bind_errors(m);
  syncbn::python::bind_groups(m);
  syncbn::python::bind_layer(m);
  syncbn::python::bind_framework(m);
}
