#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "syncbn/communicator.h"

namespace syncbn::python {

/// A Python object with int attributes rank and size and a method all_reduce_sum(array, timeout), which sums
/// a C-contiguous int64 NumPy array in place over the ranks, with a timeout in seconds. An exception of it is
/// a PeerError, a built-in TimeoutError a TimeoutError, with the original as cause; what is no Exception,
/// such as KeyboardInterrupt, passes as it is.
std::unique_ptr<Communicator> python_communicator(nanobind::object engine);

}  // namespace syncbn::python
