// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>

namespace syncbn::launch {

/// The command line is wrong. The message names the option, its value and what is allowed.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace syncbn::launch
