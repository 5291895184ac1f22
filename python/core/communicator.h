// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "syncbn/communicator.h"

namespace syncbn::python {

/// Communicator over a Python object with int attributes rank and size and a method
/// all_reduce_sum(array, timeout). The method sums a C-contiguous int64 NumPy array in place over the ranks;
/// the timeout is in seconds. If it raises a built-in TimeoutError the caller gets a TimeoutError, for any
/// other Exception a PeerError, with the original exception as the cause. A BaseException that is not an
/// Exception, such as KeyboardInterrupt, reaches the caller unchanged.
std::unique_ptr<Communicator> python_communicator(nanobind::object engine);

}  // namespace syncbn::python
