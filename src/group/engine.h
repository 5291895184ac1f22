// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "syncbn/communicator.h"

namespace syncbn::group {

/// Identity of one instance of a group, the same on all members.
struct GroupSpec {
  std::string name;
  std::vector<int> ranks;  ///< World ranks. The position of a member is its group rank.
  int generation = 0;      ///< Number of earlier groups that this rank made with this name and list.
};

/// A world that this process has joined. An engine connects the groups of its world.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// A string for each world rank. Two strings are equal if both ranks run on one host.
  virtual const std::vector<std::string>& hosts() const = 0;
  /// Connects the members of a group of two or more ranks. Every member calls it, at most once per spec.
  /// Several groups may connect at the same time. A communicator must not outlive the engine.
  /// @throws MismatchError if a member has another list under this name; TimeoutError, PeerError
  virtual std::unique_ptr<Communicator> connect(const GroupSpec& spec, Deadline deadline) = 0;
  /// Called when a call of this rank has failed because of a peer, before the caller gets the error. If the
  /// process then ends, the launcher knows that the cause is another rank.
  virtual void note_peer_error() noexcept = 0;
};

}  // namespace syncbn::group
