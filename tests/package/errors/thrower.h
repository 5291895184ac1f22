// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "syncbn/communicator.h"

/// Throws an object of the class of this name; of another name, a std::logic_error.
__attribute__((visibility("default"))) void throw_error(const std::string& name);
/// An engine for rank 0 of 2 that throws this error when it has to wait.
__attribute__((visibility("default"))) std::unique_ptr<syncbn::Communicator> engine_with_error(
    const std::string& name);
