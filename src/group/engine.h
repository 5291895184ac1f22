#pragma once

#include <memory>
#include <string>
#include <vector>

#include "syncbn/communicator.h"

namespace syncbn::group {

/// One instance of a group, as its members name it to each other.
struct GroupSpec {
  std::string name;
  std::vector<int> ranks;  ///< World ranks; a member's position is its group rank.
  int generation = 0;      ///< How often this rank made this name with this list before.
};

/// One joined world of ranks that can connect its groups.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The host of each world rank, equal strings for ranks on one host.
  virtual const std::vector<std::string>& hosts() const = 0;
  /// Connects the members of a group of two or more; called by every member, at most once for a spec, for
  /// several groups at a time. The communicators may not outlive the engine.
  /// @throws MismatchError a member has another list under this name; TimeoutError, PeerError
  virtual std::unique_ptr<Communicator> connect(const GroupSpec& spec, Deadline deadline) = 0;
  /// A call of this rank has failed because of a peer, before the caller hears of it: should the process end
  /// now, whoever watches the job knows that the cause is elsewhere.
  virtual void note_peer_error() noexcept = 0;
};

}  // namespace syncbn::group
