#include "errors.h"

#include "communicator.h"
#include "syncbn/error.h"

namespace nb = nanobind;

namespace syncbn::python {
namespace {

// The class of syncbn._errors. Looked up when an error is raised: that module imports nothing of this one.
void raise(const char* name, const char* message) {
  const nb::object error = nb::module_::import_("syncbn._errors").attr(name)(message);
  if (nb::object cause = take_cause(); cause.is_valid())
    PyException_SetCause(error.ptr(), cause.release().ptr());
  PyErr_SetObject(error.type().ptr(), error.ptr());
}

void translate(const std::exception_ptr& error, void*) {
  try {
    std::rethrow_exception(error);
  } catch (const InvalidArgument& e) {
    raise("InvalidArgument", e.what());
  } catch (const MismatchError& e) {
    raise("MismatchError", e.what());
  } catch (const PeerError& e) {
    raise("PeerError", e.what());
  } catch (const TimeoutError& e) {
    raise("TimeoutError", e.what());
  } catch (const GroupError& e) {
    raise("GroupError", e.what());
  } catch (const Error& e) {
    raise("Error", e.what());
  }
}

}  // namespace

void bind_errors(nb::module_&) { nb::register_exception_translator(translate); }

}  // namespace syncbn::python
