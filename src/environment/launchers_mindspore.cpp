// SPDX-License-Identifier: Apache-2.0

// Launchers with MindSpore's variables: syncbn-run, msrun, dry runs and rank tables.
#include "environment/launchers.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "environment/parse.h"
#include "environment/rank_table.h"

namespace syncbn::environment {
namespace {

constexpr int kTablePort = 8119;  // msrun's default port; a rank table has none

// msrun sets DEVICE_ID instead of LOCAL_RANK.
std::optional<int> local_rank_or_device(LaunchVariables& variables) {
  const auto rank = variables.rank("LOCAL_RANK");
  return rank ? rank : variables.rank("DEVICE_ID");
}

// A rank table under msrun reassigns the ranks: this process has the rank in entry number DEVICE_ID of this
// machine's list. Rank 0 may then be on any machine, so the first process on the scheduler's machine to take
// the port serves the rendezvous.
void remap(LaunchVariables& variables, LaunchEnv& env, const std::string& file) {
  const RankTable table = read_rank_table(file);
  const auto device = variables.rank("DEVICE_ID");
  variables.require(device, "DEVICE_ID");
  variables.check_complete();
  if (table.size() != env.world.size) {
    variables.fail(fmt::format("RANK_TABLE_FILE: {} devices, MS_WORKER_NUM: {}, expected equal numbers",
                               table.size(), env.world.size));
  }
  const auto& devices = own_server(table, local_addresses()).devices;
  if (static_cast<std::size_t>(*device) >= devices.size()) {
    variables.fail(fmt::format("DEVICE_ID: {}, RANK_TABLE_FILE has {} devices for this machine", *device,
                               devices.size()));
  }
  env.world.rank = devices[static_cast<std::size_t>(*device)].rank;
  env.world.serve = Serve::if_port_is_free;
}

}  // namespace

void read_syncbn_run(LaunchVariables& variables, LaunchEnv& env) {
  const std::string store = variables.require(variables.text("SYNCBN_STORE"), "SYNCBN_STORE");
  const auto rank = variables.rank("RANK_ID");
  const auto size = variables.size("RANK_SIZE");
  variables.require(rank, "RANK_ID");
  variables.require(size, "RANK_SIZE");
  variables.check_complete();
  const std::size_t colon = store.rfind(':');
  const auto port =
      colon == std::string::npos ? std::nullopt : parse<int>(std::string_view(store).substr(colon + 1));
  if (!port || *port < 1 || *port > kMaxPort || colon == 0) {
    variables.fail(fmt::format("SYNCBN_STORE: '{}', expected host:port with a port in [1, 65535]", store));
  }
  set_rank(variables, env, rank, *size);
  const auto local_rank = local_rank_or_device(variables);
  set_local(variables, env, local_rank, variables.size("LOCAL_WORLD_SIZE"));
  env.world.host = store.substr(0, colon);
  env.world.port = *port;  // served by the launcher
}

void read_msrun(LaunchVariables& variables, LaunchEnv& env) {
  const std::string role = variables.text("MS_ROLE").value_or("MS_WORKER");
  if (role != "MS_WORKER" && role != "MS_SCHED") {
    variables.fail(fmt::format("MS_ROLE: '{}', expected MS_WORKER or MS_SCHED", role));
  }
  const auto size = variables.size("MS_WORKER_NUM");
  auto rank = variables.rank("RANK_ID");  // not set if msrun does not assign the ranks
  // In that case the workers on the scheduler's machine inherit the scheduler's RANK_ID, 0. A worker to which
  // msrun has assigned a rank also has MS_NODE_ID. If MindSpore's init() ran before, it has set RANK_ID to
  // the rank that it found. If that rank is 0, the other workers have theirs, and the rendezvous assigns 0
  // first.
  const bool ranked = variables.text("MS_NODE_ID").has_value();
  if (rank == 0 && !ranked) rank = std::nullopt;
  const auto rank_size = variables.size("RANK_SIZE");
  variables.require(size, "MS_WORKER_NUM");
  variables.check_complete();
  if (rank_size && *rank_size != *size) {
    variables.fail(
        fmt::format("MS_WORKER_NUM: {}, RANK_SIZE: {}, expected equal numbers", *size, *rank_size));
  }
  env.scheduler = role == "MS_SCHED";
  set_rank(variables, env, rank, *size);
  const auto local_rank = local_rank_or_device(variables);
  set_local(variables, env, local_rank, variables.size("LOCAL_RANK_SIZE"));
  set_rendezvous(variables, env, "MS_SCHED_HOST", "MS_SCHED_PORT");
  if (!ranked) env.world.serve = Serve::if_port_is_free;  // MindSpore's rank 0 may be on any machine
  const auto table = variables.text("RANK_TABLE_FILE");
  if (table && !env.scheduler) remap(variables, env, *table);
}

void read_dry_run(LaunchVariables& variables, LaunchEnv& env) {
  const auto level =
      variables.number("MS_SIMULATION_LEVEL", INT32_MIN, 3, "0 to 3, or a negative number for none");
  const auto rank = variables.rank("RANK_ID");
  const auto size = variables.size("RANK_SIZE");
  variables.require(level, "MS_SIMULATION_LEVEL");
  variables.require(rank, "RANK_ID");
  variables.require(size, "RANK_SIZE");
  variables.check_complete();
  set_rank(variables, env, rank, *size);
  env.backend = Backend::simulation;
}

void read_rank_table_variables(LaunchVariables& variables, LaunchEnv& env) {
  const std::string file = variables.require(variables.text("RANK_TABLE_FILE"), "RANK_TABLE_FILE");
  const auto rank = variables.rank("RANK_ID");
  const auto size = variables.size("RANK_SIZE");
  const auto device_id = variables.text("DEVICE_ID");
  const auto port = variables.port("SYNCBN_PORT");
  variables.require(rank, "RANK_ID");
  variables.check_complete();
  const RankTable table = read_rank_table(file);
  if (size && *size != table.size()) {
    variables.fail(fmt::format("RANK_SIZE: {}, RANK_TABLE_FILE has {} devices, expected equal numbers", *size,
                               table.size()));
  }
  set_rank(variables, env, rank, table.size());
  for (const RankTable::Server& server : table.servers) {
    int before = 0;
    for (const RankTable::Device& device : server.devices) {
      before += device.rank < *rank ? 1 : 0;
      if (device.rank == 0) env.world.host = server.pod_ip.empty() ? server.server_id : server.pod_ip;
      if (device.rank == *rank && device_id && *device_id != device.device_id) {
        variables.fail(fmt::format("DEVICE_ID: '{}', RANK_TABLE_FILE gives rank {} the device_id '{}'",
                                   *device_id, *rank, device.device_id));
      }
    }
    const bool own = std::any_of(server.devices.begin(), server.devices.end(),
                                 [&](const RankTable::Device& device) { return device.rank == *rank; });
    if (own) set_local(variables, env, before, static_cast<int>(server.devices.size()));
  }
  env.world.port = port.value_or(kTablePort);
  env.world.port_setting = "SYNCBN_PORT";
  env.world.serve = served_by_rank_0(*rank);
}

void read_no_launcher(LaunchVariables& variables, LaunchEnv&) {
  variables.text("RANK_ID");
  if (variables.size("RANK_SIZE").value_or(1) > 1) {
    variables.fail(
        "RANK_SIZE names peers that can't be found: SYNCBN_STORE (syncbn-run), MS_WORKER_NUM, "
        "MS_SCHED_HOST and MS_SCHED_PORT (msrun), or RANK_TABLE_FILE missing");
  }
}

}  // namespace syncbn::environment
