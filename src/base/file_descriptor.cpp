// SPDX-License-Identifier: Apache-2.0
#include "base/file_descriptor.h"

#include <unistd.h>

namespace syncbn::base {

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace syncbn::base
