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

/// The world whose ranks are threads of this process: what they share.
class ThreadWorld : public std::enable_shared_from_this<ThreadWorld> {
 public:
  explicit ThreadWorld(int size);
  ~ThreadWorld();

  int size() const { return static_cast<int>(hosts_.size()); }
  const std::vector<std::string>& hosts() const { return hosts_; }

  /// The world as `rank` sees it.
  std::unique_ptr<group::Engine> engine(int rank);
  /// The rank takes part in nothing more: whoever waits for it, now or later, in whatever group, gets a
  /// PeerError "rank <its rank there> <reason>". What it has already brought stays valid.
  void leave(int rank, const std::string& reason);

  /// Called by the engines. @throws as group::Engine::connect
  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, int rank, Deadline deadline);

 private:
  const std::vector<std::string> hosts_;
  const std::shared_ptr<rendezvous::MemoryBoard> store_;
  std::mutex mutex_;                                         // guards all below
  std::map<std::string, std::shared_ptr<SumBoard>> boards_;  // until all members took it and let it go
  std::vector<std::pair<int, std::string>> left_;
};

}  // namespace syncbn::engines
