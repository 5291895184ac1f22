#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/membership.h"
#include "rendezvous/tcp_store.h"

namespace syncbn::launch {

/// A launcher's connections to the store of its job. Threads of its own wait there, so that the launcher can
/// sleep until a descriptor is readable, and a signal ends it whatever they wait for.
class Link {
 public:
  /// Begins to connect, until `connect_by`; then tells that `self` has come, or, should this process die,
  /// that it was lost. The link fills in the address of `self`.
  Link(const JobPlan& plan, Node self, Deadline connect_by);
  /// Leaves the threads to their fate: they end with the process at the latest.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  struct News {
    bool connected = false;             ///< Since whenever.
    std::vector<std::string> of_nodes;  ///< For Roll::read().
    std::vector<int> joined;            ///< Ranks, in the order of their coming.
    std::optional<std::string> broken;  ///< Why there will be no more news.
  };
  int wake_fd() const;  ///< Readable when there are news.
  News take();          ///< Those since the last call.

  /// Tells the others. False: they can't be told.
  bool tell(std::string_view news);
  /// Those that have not joined, of `ranks`; none: the store can't be asked.
  std::optional<std::vector<int>> not_joined(const std::vector<int>& ranks);
  /// Whether a call of `rank` has failed because of a peer; false where the store can't be asked.
  bool had_peer_error(int rank);
  /// From now on the news tell of ranks that join.
  void follow_joins();

 private:
  struct State;
  std::shared_ptr<rendezvous::TcpStore> mouth() const;

  const std::shared_ptr<State> state_;
};

}  // namespace syncbn::launch
