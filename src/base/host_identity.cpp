// SPDX-License-Identifier: Apache-2.0
#include "base/host_identity.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <fstream>

namespace syncbn::base {

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string host_identity() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat network {};
  stat("/proc/self/ns/net", &network);  // if it cannot be read: 0 on every rank
  return fmt::format("{} {} {}", host_name(), boot, network.st_ino);
}

}  // namespace syncbn::base
