#include "world/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <utility>

#include "base/parallel_for.h"
#include "engines/entry.h"
#include "engines/simulated.h"
#include "engines/threads.h"
#include "environment/launch_env.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "world/world.h"

namespace syncbn {
namespace {

std::mutex init_mutex;              // held while a world is being joined or left
std::shared_ptr<Group> lone_group;  // of this process without init; guarded by init_mutex

void check_timeout(const std::optional<std::chrono::milliseconds>& timeout) {
  constexpr std::chrono::milliseconds kLongest = environment::kLongestTimeout;
  if (timeout && (timeout->count() < 1 || *timeout > kLongest)) {
    throw InvalidArgument(
        fmt::format("timeout: {} ms, expected 1 to {} ms", timeout->count(), kLongest.count()));
  }
}

void join(const environment::WorldSpec& spec, const std::string& backend, std::chrono::milliseconds timeout,
          std::chrono::milliseconds rendezvous_timeout) {
  if (spec.size > kMaxRanks)
    throw GroupError(fmt::format("init: a world of {} ranks, expected at most {}", spec.size, kMaxRanks));
  std::shared_ptr<group::Engine> engine;
  if (spec.size == 1) {  // nobody to meet: no engine's library is needed
    engine = std::make_shared<engines::ThreadWorld>(1)->engine(0);
  } else if (backend == "simulation") {
    if (!spec.rank) throw GroupError("init: a simulation needs the rank of this process: RANK_ID is not set");
    engine = engines::simulated_engine(*spec.rank, spec.size);
  } else {
    engine = engines::find_engine(backend).join(spec, std::chrono::steady_clock::now() + rendezvous_timeout);
  }
  const auto world = std::make_shared<World>(std::move(engine), timeout);
  base::share_cores(world->local_size(*world->group(kWorldGroup)));
  World::set_of_process(world);
  if (lone_group != nullptr && world->size() > 1) {
    lone_group->close(
        "init() has joined a world of more ranks since the layer was first used; make the layer after "
        "init()");
  }
  lone_group = nullptr;
}

std::string engine_name(Backend backend) {
  switch (backend) {
    case Backend::gloo:
      return "gloo";
    case Backend::mpi:
      return "mpi";
    case Backend::simulation:
      return "simulation";
    case Backend::automatic:
      throw InvalidArgument(
          "backend: automatic asks the environment, which InitOptions bypass; expected gloo, mpi or "
          "simulation");
  }
  throw InvalidArgument(
      fmt::format("backend: {}, expected gloo, mpi or simulation", static_cast<int>(backend)));
}

void refuse_second_world_of_thread() {
  if (World::thread_has_own())
    throw GroupError("init: this thread's world was run_ranks' and has been released");
}

// `what` says which call, or which group.
GroupError not_initialised(const std::string& what) {
  if (World::thread_has_own()) return GroupError(what + ": this thread's world has been released");
  if (World::released()) return GroupError(what + ": the world has been released; call init() first");
  return GroupError(what + ": not initialised; call init() first");
}
GroupError not_initialised(std::string_view function, std::string_view group) {
  return not_initialised(fmt::format("{}: group '{}'", function, group));
}

World& initialised(const std::shared_ptr<World>& world, std::string_view function, std::string_view group) {
  if (world == nullptr) throw not_initialised(function, group);
  return *world;
}

void check_rank(const char* argument, int rank) {
  if (rank < 0) throw InvalidArgument(fmt::format("{}: {}, expected a rank >= 0", argument, rank));
}

// What a get function says: of the group, or before the first init, for the world only, of the launcher's
// environment. Not after release: a rank that took part in a world must not take itself for rank 0 of 1.
template <class OfGroup, class OfEnvironment>
int answer(const char* function, std::string_view name, OfGroup of_group, OfEnvironment of_environment) {
  if (const auto world = World::current()) return of_group(*world, *world->group(name));
  if (!names_the_world(name) || World::released()) throw not_initialised(function, name);
  return of_environment(environment::read_launch_env());
}

}  // namespace

void init(Backend backend) {
  if (backend < Backend::automatic || backend > Backend::simulation) {
    throw InvalidArgument(
        fmt::format("backend: {}, expected automatic, gloo, mpi or simulation", static_cast<int>(backend)));
  }
  const std::lock_guard lock(init_mutex);
  if (World::current() != nullptr) return;
  refuse_second_world_of_thread();
  const environment::LaunchEnv env = environment::read_launch_env(environment::process_env, backend);
  // msrun starts the same program once more, as a scheduler that nobody needs here.
  if (env.scheduler) std::exit(EXIT_SUCCESS);
  const auto timeout = environment::read_timeout();
  join(env.world, env.backend, timeout, env.rendezvous_timeout.value_or(timeout));
}

void init(const InitOptions& options) {
  if (options.size < 1 || options.size > kMaxRanks) {
    throw InvalidArgument(
        fmt::format("size: {}, expected a number of ranks in [1, {}]", options.size, kMaxRanks));
  }
  if (options.rank < 0 || options.rank >= options.size) {
    throw InvalidArgument(fmt::format("rank: {}, expected a rank in [0, {})", options.rank, options.size));
  }
  const std::string backend = engine_name(options.backend);
  if (options.size > 1 && options.backend == Backend::gloo) {
    if (options.host.empty())
      throw InvalidArgument("host: empty, expected where rank 0 serves the rendezvous");
    if (options.port < 1 || options.port > 65535) {
      throw InvalidArgument(fmt::format("port: {}, expected a port in [1, 65535]", options.port));
    }
  }
  check_timeout(options.timeout);
  const std::lock_guard lock(init_mutex);
  if (World::current() != nullptr) throw GroupError("init: already initialised; release() comes first");
  refuse_second_world_of_thread();
  const auto timeout = options.timeout ? *options.timeout : environment::read_timeout();
  const std::string token =
      options.token.empty() ? environment::process_env("SYNCBN_TOKEN").value_or("") : options.token;
  join({options.rank, options.size, options.host, options.port, options.rank == 0, token}, backend, timeout,
       timeout);
}

bool is_initialized() { return World::current() != nullptr; }

void release() {
  const std::lock_guard lock(init_mutex);
  const auto world = World::release_current();
  if (world == nullptr) throw not_initialised("release");
  world->close();
  if (!World::thread_has_own()) base::share_cores(1);
}

void create_group(const std::string& name, const std::vector<int>& ranks) {
  initialised(World::current(), "create_group", name).create_group(name, ranks);
}

std::string new_group(const std::vector<int>& ranks) {
  const auto world = World::current();
  if (world == nullptr) throw not_initialised(fmt::format("new_group: ranks [{}]", fmt::join(ranks, ", ")));
  return world->new_group(ranks);
}

void destroy_group(const std::string& name) {
  initialised(World::current(), "destroy_group", name).destroy_group(name);
}

int get_rank(std::string_view group) {
  return answer(
      "get_rank", group, [](World&, Group& g) { return g.rank(); },
      [](const environment::LaunchEnv& env) { return env.world.rank.value_or(0); });
}

int get_group_size(std::string_view group) {
  return answer(
      "get_group_size", group, [](World&, Group& g) { return g.size(); },
      [](const environment::LaunchEnv& env) { return env.world.size; });
}

int get_local_rank(std::string_view group) {
  return answer(
      "get_local_rank", group, [](World& world, Group& g) { return world.local_rank(g); },
      [](const environment::LaunchEnv& env) { return env.local_rank; });
}

int get_local_rank_size(std::string_view group) {
  return answer(
      "get_local_rank_size", group, [](World& world, Group& g) { return world.local_size(g); },
      [](const environment::LaunchEnv& env) { return env.local_size; });
}

int get_world_rank_from_group_rank(std::string_view group, int group_rank) {
  const auto world = World::current();
  initialised(world, "get_world_rank_from_group_rank", group);
  check_rank("group_rank", group_rank);
  const auto found = world->group(group);
  if (group_rank >= found->size()) {
    throw GroupError(
        fmt::format("group_rank: {}, group '{}' has the ranks [0, {})", group_rank, group, found->size()));
  }
  return found->ranks()[static_cast<std::size_t>(group_rank)];
}

int get_group_rank_from_world_rank(int world_rank, std::string_view group) {
  const auto world = World::current();
  initialised(world, "get_group_rank_from_world_rank", group);
  check_rank("world_rank", world_rank);
  const auto found = world->group(group);
  const auto& ranks = found->ranks();
  const auto at = std::find(ranks.begin(), ranks.end(), world_rank);
  if (at == ranks.end()) {
    throw GroupError(fmt::format("world_rank: {} is not in group '{}', which has [{}]", world_rank, group,
                                 fmt::join(ranks, ", ")));
  }
  return static_cast<int>(at - ranks.begin());
}

std::shared_ptr<Group> make_group(std::string name, std::unique_ptr<Communicator> communicator,
                                  std::optional<std::chrono::milliseconds> timeout) {
  if (name.empty()) throw InvalidArgument("name: empty, expected a name for messages");
  if (communicator == nullptr)
    throw InvalidArgument(fmt::format("communicator: null, group '{}' needs one", name));
  const int rank = communicator->rank();
  const int size = communicator->size();
  if (size < 1 || size > kMaxRanks || rank < 0 || rank >= size) {
    throw InvalidArgument(
        fmt::format("communicator: rank {} of {} ranks, expected a rank in [0, size), and a size in [1, {}]",
                    rank, size, kMaxRanks));
  }
  check_timeout(timeout);
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  // A std::function must be copyable, so the communicator waits in a shared place for its one use.
  const auto given = std::make_shared<std::unique_ptr<Communicator>>(std::move(communicator));
  return std::make_shared<Group>(std::move(name), std::move(ranks), rank,
                                 timeout ? *timeout : environment::read_timeout(),
                                 [given](Deadline) { return std::move(*given); });
}

namespace world {

std::shared_ptr<Group> resolve_group(std::string_view name) {
  if (const auto world = World::current()) return world->group(name);
  if (!names_the_world(name) || World::released()) throw not_initialised(fmt::format("group '{}'", name));
  const environment::LaunchEnv env = environment::read_launch_env();
  if (env.world.size > 1) {
    throw GroupError(
        fmt::format("group '{}': {} has started {} ranks, which this one has not joined; call init() first",
                    name, env.launcher, env.world.size));
  }
  const std::lock_guard lock(init_mutex);
  if (lone_group == nullptr) {
    lone_group = std::make_shared<Group>(std::string(kWorldGroup), std::vector<int>{0}, 0,
                                         environment::read_timeout(), nullptr);
  }
  return lone_group;
}

}  // namespace world
}  // namespace syncbn
