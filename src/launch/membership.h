#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/plan.h"

/// How the launchers of a job, one a node, agree without a master: each tells its news to one list that the
/// store keeps, and all read that list in its one order (Roll), so that all come to the same conclusions.
namespace syncbn::launch {

/// One launcher, as it presents itself.
struct Node {
  std::string id;  ///< Tells launchers apart.
  int worker_num = 0;
  int local_worker_num = 0;
  int max_restarts = 0;
  int node_rank = -1;      ///< -1: whatever the others leave.
  std::string rank_table;  ///< Digest of its rank table, "" without.
  std::string server;      ///< The server that it is in its rank table.
  bool serves = false;     ///< The store.
  int pid = 0;
  std::string host;
  std::string address;
};

/// "launcher 4711 on node1 (10.0.0.2)"
std::string name(const Node& node);

/// How a job ends, the same on every node.
struct End {
  int code = 0;             ///< The launchers' exit code.
  std::string text;         ///< For people: lines that begin with "syncbn-run: ", empty where all went well.
  bool of_workers = false;  ///< They failed or did not join: another start may do better.
};

// What a launcher tells the others.
std::string has_come(const Node& node);
std::string is_done(const Node& node);  ///< All its workers have exited with 0.
std::string has_ended(const Node& node, const End& end);

/// What is known when the news have been read so far.
class Roll {
 public:
  explicit Roll(const Node& self) : id_(self.id) {}

  /// @throws GroupError no launcher of this version has written it
  void read(std::string_view news);

  /// All nodes have come and agree; this one is among them.
  bool complete() const { return complete_ && own_index() < nodes_.size(); }
  /// The first one told, a disagreement, or success when all are done. One of a job that this launcher came
  /// too late for is not its own.
  const std::optional<End>& end() const { return end_; }
  /// The end is what this launcher told.
  bool own_end() const { return own_end_; }
  /// The end came before all nodes had, as they do not agree.
  bool disagrees() const { return disagrees_; }
  int workers_come() const;

  Placement placement() const;  ///< Of this node, when complete().
  /// Of this node for messages, when complete(): " on node 1 (node1, 10.0.0.2)"; "" where it is the only one.
  std::string place() const;
  /// "2 by launcher 4711 on node1 (10.0.0.2), …": whose workers have come.
  std::string attendance() const;
  /// None of those that have come could be reached from another machine.
  bool on_loopback() const;
  /// The node whose launcher serves the store; "" where it has not come.
  std::string server() const;

 private:
  std::size_t own_index() const;
  void admit(const Node& node);
  std::string disagreement() const;

  const std::string id_;
  std::vector<Node> nodes_;  // in the order of coming; when complete, of their numbers
  std::size_t done_ = 0;
  bool complete_ = false;
  bool disagrees_ = false;
  bool own_end_ = false;
  std::optional<End> end_;
};

}  // namespace syncbn::launch
