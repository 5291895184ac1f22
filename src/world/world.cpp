#include "world/world.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <new>
#include <numeric>
#include <optional>
#include <set>

#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn {
namespace {

using OptionalWorld = std::optional<std::shared_ptr<World>>;  // null: released

std::mutex process_mutex;
OptionalWorld& process_world() {
  static OptionalWorld world;  // made at the first use, so destroyed before the engines' own statics
  return world;
}

thread_local OptionalWorld thread_world;

OptionalWorld given(std::shared_ptr<World> world) {
  return world == nullptr ? std::nullopt : OptionalWorld(std::move(world));
}

std::string list_text(const std::vector<int>& ranks) { return fmt::format("[{}]", fmt::join(ranks, ", ")); }

}  // namespace

bool names_the_world(std::string_view name) {
  return name == kWorldGroup || name == "hccl_world_group" || name == "nccl_world_group" ||
         name == "mccl_world_group";
}

World::World(std::shared_ptr<group::Engine> engine, std::chrono::milliseconds timeout)
    : engine_(std::move(engine)), timeout_(timeout) {
  std::vector<int> all(static_cast<std::size_t>(size()));
  std::iota(all.begin(), all.end(), 0);
  groups_.emplace(kWorldGroup, make({std::string(kWorldGroup), std::move(all), 0}));
}

World::~World() {
  close();
  // As Group::abandon().
  if (inherited()) static_cast<void>(new (std::nothrow) std::shared_ptr(std::move(engine_)));
}

bool World::inherited() const { return size() > 1 && forks_ != base::forks(); }

void World::close() noexcept {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, group] : groups_) group->close("this rank has left its world");
}

// A group connects at its first sum, and a group of one never does. Each has a connection of its own, the
// group of the whole world's list, too: sums of two groups on one connection would have to come in one order
// on all ranks, and two groups owe each other none.
std::shared_ptr<Group> World::make(const group::GroupSpec& spec) const {
  const auto position = std::find(spec.ranks.begin(), spec.ranks.end(), rank()) - spec.ranks.begin();
  auto connect = [engine = engine_, spec](Deadline deadline) { return engine->connect(spec, deadline); };
  // A closed group must not keep the engine.
  auto note = [engine = std::weak_ptr(engine_)] {
    if (const auto there = engine.lock()) there->note_peer_error();
  };
  return std::make_shared<Group>(spec.name, spec.ranks, static_cast<int>(position), timeout_,
                                 std::move(connect), std::move(note));
}

void World::check_list(const std::string& call, const std::vector<int>& ranks) const {
  const auto refuse = [&](const std::string& why) {
    throw InvalidArgument(fmt::format("{}, ranks {}: {}", call, list_text(ranks), why));
  };
  if (ranks.empty()) refuse("a group needs at least one rank");
  std::set<int> seen;
  for (const int r : ranks) {
    if (r < 0 || r >= size()) refuse(fmt::format("rank {} is outside [0, {}), the world", r, size()));
    if (!seen.insert(r).second) refuse(fmt::format("rank {} is in it twice", r));
  }
}

void World::create_group(const std::string& name, const std::vector<int>& ranks) {
  const std::string call = fmt::format("create_group: group '{}'", name);
  if (name.empty())
    throw InvalidArgument(fmt::format("{}, ranks {}: a group needs a name", call, list_text(ranks)));
  check_list(call, ranks);
  if (inherited())
    throw GroupError(fmt::format("{}, ranks {}: this process is a fork of the one that joined the world",
                                 call, list_text(ranks)));
  const std::lock_guard lock(mutex_);
  const auto known = groups_.find(names_the_world(name) ? kWorldGroup : std::string_view(name));
  if (known != groups_.end()) {
    if (known->second->ranks() == ranks) return;
    throw InvalidArgument(fmt::format("{}, ranks {}: the name is taken by a group of {}", call,
                                      list_text(ranks), list_text(known->second->ranks())));
  }
  if (std::find(ranks.begin(), ranks.end(), rank()) == ranks.end()) {
    throw GroupError(fmt::format("{}, ranks {}: this rank, {}, is no member; only members create a group",
                                 call, list_text(ranks), rank()));
  }
  const auto group = make({name, ranks, generations_[{name, ranks}]++});
  groups_.emplace(name, group);
}

std::string World::new_group(std::vector<int> ranks) {
  check_list("new_group", ranks);
  std::sort(ranks.begin(), ranks.end());
  if (!std::binary_search(ranks.begin(), ranks.end(), rank())) return "";
  std::string name = base::rank_list(ranks);  // short also for many ranks, and another one for each list
  create_group(name, ranks);
  return name;
}

void World::destroy_group(const std::string& name) {
  if (names_the_world(name)) {
    throw InvalidArgument(
        fmt::format("destroy_group: group '{}' is the world, which lasts until release()", name));
  }
  const std::shared_ptr<Group> known = group(name);
  {
    const std::lock_guard lock(mutex_);
    groups_.erase(name);
  }
  known->close("destroy_group() was called");
}

std::shared_ptr<Group> World::group(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(names_the_world(name) ? kWorldGroup : name);
  if (found != groups_.end()) return found->second;
  std::string names;
  for (const auto& [known, group] : groups_) names += fmt::format("{}'{}'", names.empty() ? "" : ", ", known);
  throw GroupError(fmt::format(
      "group '{}' is unknown to rank {} (not created, destroyed, or this rank is no member); it has {}", name,
      rank(), names));
}

int World::local_rank(const Group& group) const {
  const auto& hosts = engine_->hosts();
  const auto own = hosts[static_cast<std::size_t>(rank())];
  return static_cast<int>(std::count_if(group.ranks().begin(), group.ranks().begin() + group.rank(),
                                        [&](int r) { return hosts[static_cast<std::size_t>(r)] == own; }));
}

int World::local_size(const Group& group) const {
  const auto& hosts = engine_->hosts();
  const auto own = hosts[static_cast<std::size_t>(rank())];
  return static_cast<int>(std::count_if(group.ranks().begin(), group.ranks().end(),
                                        [&](int r) { return hosts[static_cast<std::size_t>(r)] == own; }));
}

std::shared_ptr<World> World::current() {
  if (thread_world) return *thread_world;
  const std::lock_guard lock(process_mutex);
  return process_world().value_or(nullptr);
}

void World::set_of_thread(std::shared_ptr<World> world) { thread_world = given(std::move(world)); }

void World::set_of_process(std::shared_ptr<World> world) {
  const std::lock_guard lock(process_mutex);
  process_world() = given(std::move(world));
}

std::shared_ptr<World> World::release_current() {
  if (thread_world) return std::exchange(*thread_world, nullptr);
  const std::lock_guard lock(process_mutex);
  return process_world() ? std::exchange(*process_world(), nullptr) : nullptr;
}

bool World::released() {
  if (thread_world) return *thread_world == nullptr;
  const std::lock_guard lock(process_mutex);
  return process_world() && *process_world() == nullptr;
}

bool World::thread_has_own() { return thread_world.has_value(); }

}  // namespace syncbn
