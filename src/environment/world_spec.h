// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace syncbn::environment {

/// How this process joins its world. Comes from the launcher's environment or from InitOptions.
struct WorldSpec {
  std::optional<int> rank;  ///< None: the rendezvous assigns it.
  int size = 1;
  std::string host;  ///< Host of the rendezvous.
  int port = 0;
  /// The variables behind the port, for messages: "MASTER_PORT + 1, or SYNCBN_PORT".
  std::string port_setting;
  /// True if this process serves the rendezvous: rank 0, unless a launcher serves it. None: the first process
  /// on the host to take the port serves it.
  std::optional<bool> serve = false;
  std::string token;          ///< The job's shared secret; may be empty.
  bool shared_memory = true;  ///< Ranks of one host may sum in shared memory.
};

}  // namespace syncbn::environment
