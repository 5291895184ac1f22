// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/membership.h"
#include "rendezvous/tcp_store.h"

namespace syncbn::launch {

/// A launcher's connections to the store of its job: a watch connection for the launchers' events, another
/// one for joins, and a control connection for everything else. Threads wait on the watch connections, so
/// that the launcher can sleep in poll() and a signal can end it at any time.
class JobConnection {
 public:
  /// Starts to connect, until `connect_by`. Once connected, announces `self`, and leaves a last event in the
  /// store that reports `self` as lost when the connection breaks. Fills in the address of `self`.
  JobConnection(const JobPlan& plan, Node self, Deadline connect_by);
  /// Interrupts the threads without waiting for them. They end with the process at the latest.
  ~JobConnection();
  JobConnection(const JobConnection&) = delete;
  JobConnection& operator=(const JobConnection&) = delete;

  struct Updates {
    bool connected = false;              ///< Now or in an earlier update.
    std::vector<std::string> events;     ///< For Membership::apply().
    std::vector<int> joined;             ///< Ranks, in the order in which they joined.
    std::optional<std::string> failure;  ///< Why there will be no more updates.
  };
  int wake_fd() const;     ///< For poll(): readable when there are updates.
  Updates take_updates();  ///< Those since the last call.

  /// Appends an event for all launchers. False if the store can't be reached.
  bool append(std::string_view event);
  /// True if a call of `rank` has failed because of a peer. False also if the store can't be reached.
  bool had_peer_error(int rank);
  /// From now on the updates include joins.
  void follow_joins();

 private:
  struct State;
  std::shared_ptr<rendezvous::TcpStore> control() const;

  const std::shared_ptr<State> state_;
};

}  // namespace syncbn::launch
