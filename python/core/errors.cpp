// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include <utility>

#include "syncbn/error.h"
#include "syncbn/group.h"

namespace nb = nanobind;

namespace syncbn::python {
namespace {

// The exception that an engine raised, from its failure until the error is reported; else null. A plain
// pointer, because a thread may end after the interpreter has.
thread_local PyObject* engine_exception = nullptr;

unsigned long main_thread = 0;

// True if a signal handler raised. Asks on the main thread only, which handles Python's signals.
bool interrupted() {
  if (PyThread_get_thread_ident() != main_thread || !nb::is_alive()) return false;
  const nb::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() == 0) return false;
  keep_exception(nb::python_error().value());
  return true;
}

// The class is looked up late, when an error is raised, since the package imports this module first.
void raise(const char* name, const char* message, nb::object cause = {}) {
  const nb::object error = nb::module_::import_("syncbn._errors").attr(name)(message);
  if (cause.is_valid()) PyException_SetCause(error.ptr(), cause.release().ptr());
  PyErr_SetObject(error.type().ptr(), error.ptr());
}

// Raises the Python class of an error. The engine's exception is dropped here in any case. It is the cause of
// a PeerError or TimeoutError only: for other errors it merely kept this rank from informing its peers.
void translate(const std::exception_ptr& error, void*) {
  nb::object exception = nb::steal(std::exchange(engine_exception, nullptr));
  try {
    std::rethrow_exception(error);
  } catch (const Interrupted&) {
    PyErr_SetObject(exception.type().ptr(), exception.ptr());
  } catch (const InvalidArgument& e) {
    raise("InvalidArgument", e.what());
  } catch (const MismatchError& e) {
    raise("MismatchError", e.what());
  } catch (const PeerError& e) {
    raise("PeerError", e.what(), std::move(exception));
  } catch (const TimeoutError& e) {
    raise("TimeoutError", e.what(), std::move(exception));
  } catch (const GroupError& e) {
    raise("GroupError", e.what());
  } catch (const Error& e) {
    raise("Error", e.what());
  }
}

}  // namespace

void bind_errors(nb::module_&) {
  main_thread =
      nb::cast<unsigned long>(nb::module_::import_("threading").attr("main_thread")().attr("ident"));
  nb::register_exception_translator(translate);
  set_interrupt_check(interrupted);
}

void keep_exception(nb::handle exception) {
  forget_exception();
  engine_exception = exception.inc_ref().ptr();
}

void forget_exception() { Py_CLEAR(engine_exception); }

}  // namespace syncbn::python
