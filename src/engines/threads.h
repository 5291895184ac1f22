// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "group/engine.h"
#include "rendezvous/memory_store.h"

namespace syncbn::engines {

class SumBoard;

/// A world whose ranks are threads of this process. The object holds the state that the ranks share.
class ThreadWorld : public std::enable_shared_from_this<ThreadWorld> {
 public:
  explicit ThreadWorld(int size);
  ~ThreadWorld();

  int size() const { return static_cast<int>(hosts_.size()); }
  const std::vector<std::string>& hosts() const { return hosts_; }

  /// The engine of rank `rank`.
  std::unique_ptr<group::Engine> engine(int rank);
  /// The rank takes part in no further operation. Any rank that waits for it, now or later, in any group,
  /// gets a PeerError "rank <its rank in that group> <reason>". Words that it has already contributed remain
  /// valid.
  void depart(int rank, const std::string& reason);

  /// Called by the engines of the ranks. @throws as group::Engine::connect
  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, int rank, Deadline deadline);

 private:
  const std::vector<std::string> hosts_;
  const std::shared_ptr<rendezvous::MemoryBoard> store_;
  std::mutex mutex_;  // guards all members below
  // A board is erased after all members have attached to it and destroyed their communicators.
  std::map<std::string, std::shared_ptr<SumBoard>> boards_;
  std::vector<std::pair<int, std::string>> departures_;
};

}  // namespace syncbn::engines
