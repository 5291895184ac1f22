// SPDX-License-Identifier: Apache-2.0

// init() and release(): joining a world and leaving it.
#include <fmt/core.h>

#include <cstdlib>
#include <memory>
#include <mutex>

#include "base/long_wait.h"
#include "base/parallel_for.h"
#include "base/rank_list.h"
#include "base/timeout.h"
#include "engines/entry.h"
#include "engines/simulated.h"
#include "environment/backend_names.h"
#include "environment/launch_env.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "world/current_world.h"
#include "world/resolve_group.h"

namespace syncbn {
namespace {

std::mutex init_mutex;  // held while the process joins or leaves a world

std::shared_ptr<group::Engine> join_engine(const environment::WorldSpec& spec, Backend backend,
                                           const base::TimeLimit& limit) {
  const auto& engine = engines::find_engine(environment::name_of(backend));
  const base::LongWait wait(spec.rank ? fmt::format("rank {} of {}", *spec.rank, spec.size)
                                      : fmt::format("a process of a world of {} ranks", spec.size),
                            "to join the world", limit);
  try {
    return engine.join(spec, wait.deadline());
  } catch (const TimeoutError& error) {
    throw TimeoutError(fmt::format("init: {}: {}", wait.text_at_deadline(), error.what()));
  }
}

// No backend: a world of one rank.
void join(const environment::WorldSpec& spec, std::optional<Backend> backend,
          const base::TimeLimit& rendezvous_limit, const base::TimeLimit& limit) {
  if (spec.size > base::kMaxRanks)
    throw GroupError(
        fmt::format("init: a world of {} ranks, expected at most {}", spec.size, base::kMaxRanks));
  std::shared_ptr<group::Engine> engine;
  if (spec.size == 1) {  // without peers no library of an engine is needed
    engine = engines::simulated_engine(0, 1);
  } else if (backend == Backend::simulation) {
    if (!spec.rank) throw GroupError("init: a simulation needs the rank of this process: RANK_ID is not set");
    engine = engines::simulated_engine(*spec.rank, spec.size);
  } else {
    engine = join_engine(spec, *backend, rendezvous_limit);
  }
  const auto joined = std::make_shared<world::World>(std::move(engine), limit);
  base::share_cores(joined->local_size(*joined->group(kWorldGroup)));
  world::set_process_world(joined);
  world::retire_lone_group(joined->size());
}

void check_backend(Backend backend, const char* allowed) {
  if (backend >= Backend::automatic && backend <= Backend::simulation) return;
  throw InvalidArgument(fmt::format("backend: {}, expected {}", static_cast<int>(backend), allowed));
}

void check_thread_has_no_world() {
  if (world::thread_has_world())
    throw GroupError("init: this thread's world was run_ranks' and has been released");
}

}  // namespace

void init(Backend backend) {
  check_backend(backend, "automatic, gloo, mpi or simulation");
  const std::lock_guard lock(init_mutex);
  if (world::current_world() != nullptr) return;
  check_thread_has_no_world();
  const environment::LaunchEnv env = environment::read_launch_env(environment::process_env, backend);
  // msrun starts the program once more as a scheduler, which this library does not need.
  if (env.scheduler) std::exit(EXIT_SUCCESS);
  const base::TimeLimit limit = environment::call_limit();
  join(env.world, env.backend,
       env.rendezvous_timeout ? base::TimeLimit{*env.rendezvous_timeout, "MS_TOPO_TIMEOUT"} : limit, limit);
}

void init(const InitOptions& options) {
  if (options.size < 1 || options.size > base::kMaxRanks) {
    throw InvalidArgument(
        fmt::format("size: {}, expected a number of ranks in [1, {}]", options.size, base::kMaxRanks));
  }
  if (options.rank < 0 || options.rank >= options.size) {
    throw InvalidArgument(fmt::format("rank: {}, expected a rank in [0, {})", options.rank, options.size));
  }
  check_backend(options.backend, "gloo, mpi or simulation");
  if (options.backend == Backend::automatic)
    throw InvalidArgument(
        "backend: automatic asks the environment, which InitOptions bypass; expected gloo, mpi or "
        "simulation");
  if (options.size > 1 && options.backend == Backend::gloo) {
    if (options.host.empty())
      throw InvalidArgument("host: empty, expected where rank 0 serves the rendezvous");
    if (options.port < 1 || options.port > environment::kMaxPort) {
      throw InvalidArgument(fmt::format("port: {}, expected a port in [1, 65535]", options.port));
    }
  }
  base::check_timeout(options.timeout);
  const std::lock_guard lock(init_mutex);
  if (world::current_world() != nullptr) throw GroupError("init: already initialised; release() comes first");
  check_thread_has_no_world();
  const base::TimeLimit limit = environment::call_limit(options.timeout, "the timeout of init()");
  const std::string token =
      options.token.empty() ? environment::process_env("SYNCBN_TOKEN").value_or("") : options.token;
  join({.rank = options.rank,
        .size = options.size,
        .host = options.host,
        .port = options.port,
        .port_setting = "the port of init()",
        .serve = environment::served_by_rank_0(options.rank),
        .token = token,
        .shared_memory = environment::read_shared_memory()},
       options.backend, limit, limit);
}

bool is_initialized() { return world::current_world() != nullptr; }

void release() {
  const std::lock_guard lock(init_mutex);
  const auto released = world::release_current_world();
  if (released == nullptr) throw world::not_initialised("release");
  released->close();
  if (!world::thread_has_world()) base::share_cores(1);
}

}  // namespace syncbn
