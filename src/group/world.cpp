#include "group/world.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include "syncbn/error.h"

namespace syncbn {
namespace {

std::mutex process_mutex;
std::shared_ptr<World>& process_world() {
  static std::shared_ptr<World> world;  // made at the first use, so destroyed before the engines' own statics
  return world;
}

thread_local std::optional<std::shared_ptr<World>> thread_world;

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

void World::close() noexcept {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, group] : groups_) group->close("this rank has left its world");
}

std::shared_ptr<Group> World::make(const group::GroupSpec& spec) const {
  const auto position = std::find(spec.ranks.begin(), spec.ranks.end(), rank()) - spec.ranks.begin();
  auto connect = [engine = engine_, spec](Deadline deadline) { return engine->connect(spec, deadline); };
  return std::make_shared<Group>(spec.name, spec.ranks, static_cast<int>(position), timeout_,
                                 std::move(connect));
}

void World::check_list(const std::string& name, const std::vector<int>& ranks) const {
  const auto refuse = [&](const std::string& why) {
    throw InvalidArgument(fmt::format("create_group: group '{}', ranks {}: {}", name, list_text(ranks), why));
  };
  if (name.empty()) refuse("a group needs a name");
  if (ranks.empty()) refuse("a group needs at least one rank");
  std::set<int> seen;
  for (const int r : ranks) {
    if (r < 0 || r >= size()) refuse(fmt::format("rank {} is outside [0, {}), the world", r, size()));
    if (!seen.insert(r).second) refuse(fmt::format("rank {} is in it twice", r));
  }
}

void World::create_group(const std::string& name, const std::vector<int>& ranks) {
  check_list(name, ranks);
  const std::lock_guard lock(mutex_);
  const auto known = groups_.find(names_the_world(name) ? kWorldGroup : std::string_view(name));
  if (known != groups_.end()) {
    if (known->second->ranks() == ranks) return;
    throw InvalidArgument(
        fmt::format("create_group: group '{}', ranks {}: the name is taken by a group of {}", name,
                    list_text(ranks), list_text(known->second->ranks())));
  }
  if (std::find(ranks.begin(), ranks.end(), rank()) == ranks.end()) {
    throw GroupError(fmt::format(
        "create_group: group '{}', ranks {}: this rank, {}, is no member; only members create a group", name,
        list_text(ranks), rank()));
  }
  const auto group = make({name, ranks, generations_[{name, ranks}]++});
  groups_.emplace(name, group);
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
  return process_world();
}

void World::set_of_thread(std::shared_ptr<World> world) {
  if (world != nullptr) {
    thread_world = std::move(world);
  } else {
    thread_world.reset();
  }
}

void World::set_of_process(std::shared_ptr<World> world) {
  const std::lock_guard lock(process_mutex);
  process_world() = std::move(world);
}

std::shared_ptr<World> World::release_current() {
  if (thread_world) return std::exchange(*thread_world, nullptr);
  const std::lock_guard lock(process_mutex);
  return std::exchange(process_world(), nullptr);
}

bool World::thread_has_own() { return thread_world.has_value(); }

}  // namespace syncbn
