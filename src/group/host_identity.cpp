#include "group/host_identity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <fstream>

namespace syncbn::group {

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string host_identity() {
  std::string identity = host_name();
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  if (std::string boot; file >> boot) identity += " " + boot;
  struct stat network {};
  if (stat("/proc/self/ns/net", &network) == 0) identity += " " + std::to_string(network.st_ino);
  return identity;
}

}  // namespace syncbn::group
