// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

namespace syncbn::environment {

inline constexpr int kMaxPort = 65535;

/// Part of a process in serving the rendezvous.
enum class Serve {
  no,
  yes,
  if_port_is_free  ///< The first process on the host to take the port serves it.
};
/// The rank that serves the rendezvous is 0, unless a launcher serves it.
inline Serve served_by_rank_0(int rank) { return rank == 0 ? Serve::yes : Serve::no; }

/// How this process joins its world. Comes from the launcher's environment or from InitOptions.
struct WorldSpec {
  std::optional<int> rank;  ///< None: the rendezvous assigns it.
  int size = 1;
  std::string host;  ///< Host of the rendezvous.
  int port = 0;
  /// The variables behind the port, for messages: "MASTER_PORT + 1, or SYNCBN_PORT".
  std::string port_setting;
  Serve serve = Serve::no;
  std::string token;          ///< The job's shared secret; may be empty.
  bool shared_memory = true;  ///< Ranks of one host may sum in shared memory.
};

}  // namespace syncbn::environment
