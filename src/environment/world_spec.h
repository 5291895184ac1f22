#pragma once

#include <optional>
#include <string>

namespace syncbn::environment {

/// How a process joins its world, as launch_env or InitOptions say.
struct WorldSpec {
  std::optional<int> rank;  ///< none: the rendezvous hands it out.
  int size = 1;
  std::string host;  ///< Of the rendezvous.
  int port = 0;
  /// Whether this process serves the rendezvous: rank 0 where no launcher does. None: whoever takes the port
  /// first, of the processes on its host.
  std::optional<bool> serve = false;
  std::string token;  ///< The job's shared secret, may be empty.
};

}  // namespace syncbn::environment
