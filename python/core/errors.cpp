#include "errors.h"

#include <utility>

#include "syncbn/error.h"
#include "syncbn/group.h"

namespace nb = nanobind;

namespace syncbn::python {
namespace {

// A plain pointer, since a thread may end when there is no interpreter any more. Null but between a failure
// and its report.
thread_local PyObject* kept = nullptr;

unsigned long main_thread = 0;

// On the main thread only, where Python handles signals.
bool interrupted() {
  if (PyThread_get_thread_ident() != main_thread || !nb::is_alive()) return false;
  const nb::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() == 0) return false;
  keep_exception(nb::python_error().value());
  return true;
}

// The class is looked up when an error is raised: syncbn._errors imports nothing of this module.
void raise(const char* name, const char* message, nb::object cause = {}) {
  const nb::object error = nb::module_::import_("syncbn._errors").attr(name)(message);
  if (cause.is_valid()) PyException_SetCause(error.ptr(), cause.release().ptr());
  PyErr_SetObject(error.type().ptr(), error.ptr());
}

// What an engine raised is forgotten with the call, whatever became of it: where it only kept a rank from
// telling its peers of an error of its own, it is not that error's cause.
void translate(const std::exception_ptr& error, void*) {
  nb::object exception = nb::steal(std::exchange(kept, nullptr));
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
  kept = exception.inc_ref().ptr();
}

void forget_exception() { Py_CLEAR(kept); }

}  // namespace syncbn::python
