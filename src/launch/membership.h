// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/plan.h"

/// The launchers of a job, one per node, agree without a master. Each appends its events to one list in the
/// store. All read the list in the same order (Membership), so all reach the same conclusions.
namespace syncbn::launch {

/// One launcher, as it announces itself.
struct Node {
  std::string id;  ///< Unique among the launchers.
  int worker_num = 0;
  int local_worker_num = 0;
  int max_restarts = 0;
  int node_rank = -1;      ///< -1: any number that the others leave free.
  std::string rank_table;  ///< Digest of its rank table; empty without a table.
  std::string server;      ///< Its server_id in the rank table.
  bool serves_store = false;
  int pid = 0;
  std::string host;
  std::string address;
};

/// "launcher 4711 on node1 (10.0.0.2)"
std::string describe(const Node& node);

/// The end of a job, the same on every node.
struct JobEnd {
  int code = 0;              ///< The launchers' exit code.
  std::string report;        ///< Lines for people, each after "syncbn-run: "; empty after a success.
  bool restartable = false;  ///< Workers failed or did not join: another start may succeed.
};

// Events that a launcher appends to the list.
std::string arrival_event(const Node& node);
std::string done_event(const Node& node);  ///< All workers of the node have exited with 0.
std::string end_event(const Node& node, const JobEnd& end);

/// State of the job after the events that were applied so far.
class Membership {
 public:
  explicit Membership(const Node& self) : id_(self.id) {}

  /// @throws GroupError the event was not written by a launcher of this version
  void apply(std::string_view event);

  /// True if all nodes have arrived and agree, and this node is one of them.
  bool complete() const { return complete_ && own_index() < nodes_.size(); }
  /// The first end that a launcher announced, a disagreement, or success when all nodes are done. Ends of a
  /// job that this launcher arrived too late for are ignored.
  const std::optional<JobEnd>& end() const { return end_; }
  /// True if this launcher announced the end.
  bool own_end() const { return own_end_; }
  /// True if the job ended before it was complete, because the nodes do not agree.
  bool disagrees() const { return disagrees_; }
  /// Number of workers of the nodes that have arrived.
  int workers_arrived() const;

  Placement placement() const;  ///< Of this node. Requires complete().
  /// This node in messages: " on node 1 (node1, 10.0.0.2)", or "" if there is only one node. Requires
  /// complete().
  std::string location() const;
  /// The nodes that have arrived: "2 by launcher 4711 on node1 (10.0.0.2), …".
  std::string describe_nodes() const;
  /// True if the addresses of all nodes that have arrived are loopback addresses.
  bool on_loopback() const;
  /// The launcher that serves the store; "" if it has not arrived.
  std::string store_launcher() const;

 private:
  std::size_t own_index() const;
  void add(const Node& node);
  std::string disagreement() const;

  const std::string id_;
  std::vector<Node> nodes_;  // in the order of arrival; when complete, in the order of the nodes' numbers
  std::size_t done_ = 0;
  bool complete_ = false;
  bool disagrees_ = false;
  bool own_end_ = false;
  std::optional<JobEnd> end_;
};

}  // namespace syncbn::launch
