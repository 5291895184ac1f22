#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/forks.h"
#include "group/engine.h"
#include "group/group.h"

namespace syncbn {

/// The ranks of a job as one of them sees them, and the groups it has made. Safe to use from several threads.
class World {
 public:
  World(std::shared_ptr<group::Engine> engine, std::chrono::milliseconds timeout);
  ~World();
  void close() noexcept;  ///< Closes every group: whoever still holds one gets a GroupError at its next sum.

  int rank() const { return engine_->rank(); }
  int size() const { return engine_->size(); }
  std::chrono::milliseconds timeout() const { return timeout_; }

  // As the free functions of syncbn/group.h.
  void create_group(const std::string& name, const std::vector<int>& ranks);
  std::string new_group(std::vector<int> ranks);
  void destroy_group(const std::string& name);
  /// @throws GroupError unknown, naming the groups there are
  std::shared_ptr<Group> group(std::string_view name) const;
  int local_rank(const Group& group) const;  ///< How many members before this rank are on its host.
  int local_size(const Group& group) const;  ///< How many members are.

  /// The calling thread's world, else the process's; null where there is none.
  static std::shared_ptr<World> current();
  /// Gives the calling thread a world of its own; null: as if it never had one.
  static void set_of_thread(std::shared_ptr<World> world);
  static void set_of_process(std::shared_ptr<World> world);  ///< Null: as if there never had been one.
  /// Takes current() away, from the thread or the process; on a thread that had a world of its own, there is
  /// none then.
  static std::shared_ptr<World> release_current();
  /// Whether release_current took the world away that would be the current one.
  static bool released();
  /// Whether set_of_thread gave this thread a world, released or not.
  static bool thread_has_own();

 private:
  bool inherited() const;  // by a fork of the process that joined
  void check_list(const std::string& call, const std::vector<int>& ranks) const;
  std::shared_ptr<Group> make(const group::GroupSpec& spec) const;

  std::shared_ptr<group::Engine> engine_;
  const int forks_ = base::forks();
  const std::chrono::milliseconds timeout_;
  mutable std::mutex mutex_;  // guards all below
  std::map<std::string, std::shared_ptr<Group>, std::less<>> groups_;
  std::map<std::pair<std::string, std::vector<int>>, int> generations_;  // how often each was made
};

/// Whether the name means the world: kWorldGroup, or MindSpore's name of it on one of its devices.
bool names_the_world(std::string_view name);

}  // namespace syncbn
