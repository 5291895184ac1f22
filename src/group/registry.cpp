#include "group/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <utility>

#include "group/engine.h"
#include "group/engines/threads.h"
#include "group/launch_env.h"
#include "group/world.h"
#include "kernels/parallel_for.h"
#include "syncbn/error.h"
#include "syncbn/group.h"

namespace syncbn {
namespace {

std::mutex init_mutex;              // held while a world is being joined or left
std::shared_ptr<Group> lone_group;  // of this process without init; guarded by init_mutex

void check_timeout(const std::optional<std::chrono::milliseconds>& timeout) {
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365);  // far from the clock's end
  if (timeout && (timeout->count() < 1 || *timeout > kLongest)) {
    throw InvalidArgument(
        fmt::format("timeout: {} ms, expected 1 to {} ms", timeout->count(), kLongest.count()));
  }
}

void join(const group::WorldSpec& spec, const std::string& backend, std::chrono::milliseconds timeout,
          std::chrono::milliseconds rendezvous_timeout) {
  std::shared_ptr<group::Engine> engine;
  if (spec.size == 1) {  // nobody to meet: no engine's library is needed
    engine = std::make_shared<group::ThreadWorld>(1)->engine(0);
  } else {
    engine = group::find_engine(backend).join(spec, std::chrono::steady_clock::now() + rendezvous_timeout);
  }
  const auto world = std::make_shared<World>(std::move(engine), timeout);
  kernels::share_cores(world->local_size(*world->group(kWorldGroup)));
  World::set_of_process(world);
  if (lone_group != nullptr && world->size() > 1) {
    lone_group->close(
        "init() has joined a world of more ranks since the layer was first used; make the layer after "
        "init()");
  }
  lone_group = nullptr;
}

void refuse_second_world_of_thread() {
  if (World::thread_has_own())
    throw GroupError("init: this thread's world was run_ranks' and has been released");
}

GroupError not_initialised(std::string_view function, std::string_view group) {
  return GroupError(fmt::format("{}: group '{}': not initialised; call init() first", function, group));
}

World& initialised(const std::shared_ptr<World>& world, std::string_view function, std::string_view group) {
  if (world == nullptr) throw not_initialised(function, group);
  return *world;
}

// What a get function says: of the group, or before init, for the world only, of the launcher's environment.
template <class OfGroup, class OfEnvironment>
int answer(const char* function, std::string_view name, OfGroup of_group, OfEnvironment of_environment) {
  if (const auto world = World::current()) return of_group(*world, *world->group(name));
  if (!names_the_world(name)) throw not_initialised(function, name);
  return of_environment(group::read_launch_env());
}

}  // namespace

void init(Backend backend) {
  if (backend != Backend::automatic && backend != Backend::gloo && backend != Backend::mpi) {
    throw InvalidArgument(
        fmt::format("backend: {}, expected automatic, gloo or mpi", static_cast<int>(backend)));
  }
  const std::lock_guard lock(init_mutex);
  if (World::current() != nullptr) return;
  refuse_second_world_of_thread();
  const group::LaunchEnv env = group::read_launch_env(group::process_env, backend);
  // msrun starts the same program once more, as a scheduler that nobody needs here.
  if (env.scheduler) std::exit(EXIT_SUCCESS);
  const auto timeout = group::read_timeout();
  join(env.world, env.backend, timeout, env.rendezvous_timeout.value_or(timeout));
}

void init(const InitOptions& options) {
  if (options.size < 1)
    throw InvalidArgument(fmt::format("size: {}, expected a number of ranks >= 1", options.size));
  if (options.rank < 0 || options.rank >= options.size) {
    throw InvalidArgument(fmt::format("rank: {}, expected a rank in [0, {})", options.rank, options.size));
  }
  if (options.backend != Backend::gloo && options.backend != Backend::mpi) {
    throw InvalidArgument(
        options.backend == Backend::automatic
            ? "backend: automatic asks the environment, which InitOptions bypass; expected gloo or mpi"
            : fmt::format("backend: {}, expected gloo or mpi", static_cast<int>(options.backend)));
  }
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
  const auto timeout = options.timeout ? *options.timeout : group::read_timeout();
  const std::string token =
      options.token.empty() ? group::process_env("SYNCBN_TOKEN").value_or("") : options.token;
  join({options.rank, options.size, options.host, options.port, options.rank == 0, token},
       options.backend == Backend::mpi ? "mpi" : "gloo", timeout, timeout);
}

bool is_initialized() { return World::current() != nullptr; }

void release() {
  const std::lock_guard lock(init_mutex);
  const auto world = World::release_current();
  if (world == nullptr) throw GroupError("release: not initialised; call init() first");
  world->close();
  if (!World::thread_has_own()) kernels::share_cores(1);
}

void create_group(const std::string& name, const std::vector<int>& ranks) {
  initialised(World::current(), "create_group", name).create_group(name, ranks);
}

void destroy_group(const std::string& name) {
  initialised(World::current(), "destroy_group", name).destroy_group(name);
}

int get_rank(std::string_view group) {
  return answer(
      "get_rank", group, [](World&, Group& g) { return g.rank(); },
      [](const group::LaunchEnv& env) { return env.world.rank.value_or(0); });
}

int get_group_size(std::string_view group) {
  return answer(
      "get_group_size", group, [](World&, Group& g) { return g.size(); },
      [](const group::LaunchEnv& env) { return env.world.size; });
}

int get_local_rank(std::string_view group) {
  return answer(
      "get_local_rank", group, [](World& world, Group& g) { return world.local_rank(g); },
      [](const group::LaunchEnv& env) { return env.local_rank; });
}

int get_local_rank_size(std::string_view group) {
  return answer(
      "get_local_rank_size", group, [](World& world, Group& g) { return world.local_size(g); },
      [](const group::LaunchEnv& env) { return env.local_size; });
}

int get_world_rank_from_group_rank(std::string_view group, int group_rank) {
  const auto found = initialised(World::current(), "get_world_rank_from_group_rank", group).group(group);
  if (group_rank < 0 || group_rank >= found->size()) {
    throw GroupError(
        fmt::format("group_rank: {}, group '{}' has the ranks [0, {})", group_rank, group, found->size()));
  }
  return found->ranks()[static_cast<std::size_t>(group_rank)];
}

int get_group_rank_from_world_rank(int world_rank, std::string_view group) {
  const auto found = initialised(World::current(), "get_group_rank_from_world_rank", group).group(group);
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
  if (size < 1 || rank < 0 || rank >= size) {
    throw InvalidArgument(
        fmt::format("communicator: rank {} of {} ranks, expected a rank in [0, size)", rank, size));
  }
  check_timeout(timeout);
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  // A std::function must be copyable, so the communicator waits in a shared place for its one use.
  const auto given = std::make_shared<std::unique_ptr<Communicator>>(std::move(communicator));
  return std::make_shared<Group>(std::move(name), std::move(ranks), rank,
                                 timeout ? *timeout : group::read_timeout(),
                                 [given](Deadline) { return std::move(*given); });
}

namespace group {

std::shared_ptr<Group> resolve_group(std::string_view name) {
  if (const auto world = World::current()) return world->group(name);
  if (!names_the_world(name))
    throw GroupError(fmt::format("group '{}': not initialised; call init() first", name));
  if (World::thread_has_own())
    throw GroupError(fmt::format("group '{}': this thread's world has been released", name));
  const LaunchEnv env = read_launch_env();
  if (env.world.size > 1) {
    throw GroupError(
        fmt::format("group '{}': {} has started {} ranks, which this one has not joined; call init() first",
                    name, env.launcher, env.world.size));
  }
  const std::lock_guard lock(init_mutex);
  if (lone_group == nullptr) {
    lone_group =
        std::make_shared<Group>(std::string(kWorldGroup), std::vector<int>{0}, 0, read_timeout(), nullptr);
  }
  return lone_group;
}

}  // namespace group
}  // namespace syncbn
