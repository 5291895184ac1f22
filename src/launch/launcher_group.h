// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "launch/job_connection.h"
#include "launch/membership.h"
#include "rendezvous/store_server.h"

namespace syncbn::launch {

/// All launchers of a job, seen from one of them. This launcher serves the store if --master_addr is an
/// address of its machine, connects to the store and follows the events there. In a dry run the group has one
/// launcher and no store.
class LauncherGroup {
 public:
  /// The launchers of the other nodes must arrive by `arrive_by`; none: no limit. If the plan takes free
  /// ports, the ports that were found are written into it.
  /// @throws GroupError the store can't be served; std::system_error
  LauncherGroup(JobPlan& plan, std::optional<Deadline> arrive_by);

  /// For poll(): readable when there are updates; -1 without a connection.
  int wake_fd() const { return connection_ ? connection_->wake_fd() : -1; }
  void read_updates();

  const Membership& membership() const { return membership_; }
  bool serves_store() const { return store_.has_value(); }
  bool connected() const { return connected_; }
  const std::set<int>& joined_ranks() const { return joined_; }  ///< Since follow_joins().
  /// The end of the job, if there is one: it was announced, or the connection is lost.
  const std::optional<JobEnd>& end() const { return end_; }

  /// False if the store can't be reached.
  bool announce_done();
  bool announce_end(const JobEnd& end);  ///< False if the store can't be reached.

  // As in JobConnection.
  bool had_peer_error(int rank) { return connection_ && connection_->had_peer_error(rank); }
  void follow_joins() { connection_->follow_joins(); }

  /// Stops accepting connections to the store: they would belong to the next job.
  void refuse_newcomers();
  void disconnect() { connection_.reset(); }
  /// Serves the store until all other clients have disconnected, at most until `deadline`.
  void serve_until_idle(Deadline deadline);

 private:
  void serve();
  void serve_at_free_ports(JobPlan& plan);
  bool announce(std::string_view event);

  const JobPlan& plan_;
  const std::optional<Deadline> arrive_by_;
  std::optional<rendezvous::StoreServer> store_;
  std::string why_not_serving_;
  Node self_;
  Membership membership_;
  std::optional<JobConnection> connection_;
  bool connected_ = false;
  std::set<int> joined_;
  std::optional<JobEnd> end_;
};

}  // namespace syncbn::launch
