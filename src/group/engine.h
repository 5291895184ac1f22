#pragma once

#include <memory>
#include <optional>
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

/// How a process joins its world, as launch_env or InitOptions say.
struct WorldSpec {
  std::optional<int> rank;  ///< none: the rendezvous hands it out.
  int size = 1;
  std::string host;  ///< Of the rendezvous.
  int port = 0;
  /// Whether this process serves the rendezvous: rank 0 where no launcher does. None: whoever takes the port
  /// first, of the processes on its host.
  std::optional<bool> serve = false;
  std::string token;  ///< The job's shared secret, may be empty.
};

/// An engine that a program was linked with. Each engine's library registers itself.
struct EngineEntry {
  const char* name;  ///< "gloo", "mpi"
  std::unique_ptr<Engine> (*join)(const WorldSpec& spec, Deadline deadline);
};
/// `entry` must live as long as the program.
void register_engine(const EngineEntry& entry);
/// Called with the name of an engine that no library has registered, to load the library that does; what it
/// throws is the error. For a program that can't know before which engines it will need.
void set_engine_loader(void (*load)(const std::string& name));
/// @throws GroupError: not linked in; the message lists the engines that are.
const EngineEntry& find_engine(const std::string& name);

}  // namespace syncbn::group
