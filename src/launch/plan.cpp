// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>

#include "base/hash.h"
#include "base/host_identity.h"
#include "base/log_level.h"
#include "base/rank_list.h"
#include "base/throw_errno.h"
#include "environment/parse.h"
#include "environment/rank_table.h"
#include "environment/world_spec.h"
#include "launch/addresses.h"
#include "launch/worker_environment.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

namespace fs = std::filesystem;

int store_port(const Options& options) {
  const char* text = std::getenv("SYNCBN_PORT");
  if (text == nullptr) {
    if (options.master_port == environment::kMaxPort)
      throw UsageError(
          "--master_port is 65535; allowed: up to 65534, because the workers meet at the next port, or any "
          "port with SYNCBN_PORT set");
    return options.master_port + 1;
  }
  const int port = environment::parse<int>(text).value_or(0);
  if (port < 1 || port > environment::kMaxPort)
    throw UsageError(
        fmt::format("SYNCBN_PORT is '{}'; allowed: an integer from 1 to {}", text, environment::kMaxPort));
  return port;
}

std::string random_token() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    base::throw_errno("getrandom");
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

std::string log_name(const Options& options) {
  if (options.worker_log_name.empty()) return "worker";
  std::string name = options.worker_log_name;
  const auto fill = [&name](std::string_view mark, auto value) {
    for (auto at = name.find(mark); at != std::string::npos; at = name.find(mark))
      name.replace(at, mark.size(), value());
  };
  fill("{ip}", [&] { return own_address_towards(options.master_addr); });
  fill("{hostname}", base::host_name);
  return name;
}

// Hash of a file's bytes. It shows whether the nodes have different files; it does not protect against
// forgery.
std::string digest(const fs::path& file) {
  std::ifstream input(file, std::ios::binary);
  base::Fnv1a hash;
  hash.add(std::string(std::istreambuf_iterator<char>(input), {}));
  return fmt::format("{:016x}", hash.value());
}

// Takes the ranks and devices of this node from the rank table, in the order of its server's list.
void apply_rank_table(JobPlan& plan) {
  const Options& options = plan.options;
  if (options.rank_table_file.empty()) return;
  try {
    const environment::RankTable table = environment::read_rank_table(options.rank_table_file);
    if (table.size() != options.worker_num)
      throw UsageError(
          fmt::format("--rank_table_file: '{}' has {} devices and --worker_num is {}; allowed: "
                      "as many devices as workers",
                      options.rank_table_file, table.size(), options.worker_num));
    plan.rank_table_digest = digest(options.rank_table_file);
    for (const std::string& note : table.notes) plan.notes.push_back(fmt::format("rank table: {}", note));
    if (plan.dry_run()) return;  // a dry run needs no server in the table
    const auto& server = environment::own_server(table, environment::local_addresses());
    if (static_cast<int>(server.devices.size()) != options.local_worker_num)
      throw UsageError(fmt::format(
          "--rank_table_file: server '{}' of '{}', which is this machine, has {} devices and "
          "--local_worker_num is {}; allowed: as many devices as workers here",
          server.server_id, options.rank_table_file, server.devices.size(), options.local_worker_num));
    for (std::size_t i = 0; i < plan.slots.size(); ++i) {
      plan.slots[i].device = server.devices[i].device_id;
      plan.slots[i].rank = server.devices[i].rank;
    }
    plan.rank_table_server = server.server_id;
  } catch (const GroupError& error) {
    throw UsageError(fmt::format("--rank_table_file: {}", error.what()));
  }
}

void bind_evenly(JobPlan& plan, const std::vector<int>& usable) {
  const int workers = plan.options.local_worker_num;
  if (static_cast<int>(usable.size()) < workers) {
    plan.notes.push_back(
        fmt::format("--bind_core=True: this machine has {} cores for {} workers, so they are not bound",
                    usable.size(), workers));
    return;
  }
  const auto parts = split_evenly(usable, workers);
  for (std::size_t i = 0; i < parts.size(); ++i) plan.slots[i].cores = parts[i];
}

void bind_as_chosen(JobPlan& plan, const std::vector<int>& usable) {
  for (const auto& [key, cores] : plan.options.bind_core.chosen) {
    for (const int core : cores) {
      if (!std::binary_search(usable.begin(), usable.end(), core))
        throw UsageError(
            fmt::format("--bind_core: {} has core {}; allowed are this machine's usable cores: {}", key, core,
                        base::ranges(usable)));
    }
    if (key == "scheduler") {
      plan.scheduler_cores = cores;
      continue;
    }
    const auto slot =
        std::find_if(plan.slots.begin(), plan.slots.end(),
                     [&, name = key](const WorkerSlot& each) { return "device" + each.device == name; });
    if (slot == plan.slots.end()) {
      std::vector<std::string> devices;
      for (const WorkerSlot& each : plan.slots) devices.push_back("device" + each.device);
      throw UsageError(fmt::format("--bind_core: no worker here has {}; allowed: {}, scheduler", key,
                                   fmt::join(devices, ", ")));
    }
    slot->cores = cores;
  }
}

void bind_cores(JobPlan& plan) {
  const CoreBinding& binding = plan.options.bind_core;
  if (!binding.even && binding.chosen.empty()) return;
  const std::vector<int> usable = usable_cores();
  if (binding.even) bind_evenly(plan, usable);
  bind_as_chosen(plan, usable);
}

fs::path log_file(const JobPlan& plan, const std::string& name) {
  return plan.log_dir /
         (plan.restart == 0 ? name + ".log" : fmt::format("{}.restart_{}.log", name, plan.restart));
}

}  // namespace

JobPlan make_plan(const Options& options) {
  try {
    base::log_level();
  } catch (const GroupError& error) {
    throw UsageError(error.what());
  }
  JobPlan plan;
  plan.options = options;
  plan.command = resolve_command(options.task);
  plan.store_port = store_port(options);
  plan.takes_free_ports =
      !options.master_port_given && std::getenv("SYNCBN_PORT") == nullptr && !plan.several_nodes();
  const char* token = std::getenv("SYNCBN_TOKEN");
  plan.token = token != nullptr ? token : "";
  // The other nodes could not know a random token.
  if (plan.token.empty() && !plan.several_nodes()) plan.token = random_token();
  if (options.worker_num > 1 && !plan.dry_run()) plan.cluster_time_out = options.cluster_time_out;
  for (int i = 0; i < options.local_worker_num; ++i) plan.slots.push_back({std::to_string(i), {}, {}});
  if (plan.dry_run()) plan.slots[0].rank = std::max(0, options.sim_rank_id);
  apply_rank_table(plan);
  bind_cores(plan);
  plan.log_dir = fs::absolute(options.log_dir.empty() ? "." : options.log_dir).lexically_normal();
  plan.log_name = log_name(options);
  plan.job_log = plan.log_dir / "syncbn-run.log";
  if (options.ms_scheduler) plan.scheduler_host = numeric_address(options.master_addr);
  return plan;
}

std::string JobPlan::start_token() const {
  return restart == 0 ? token : fmt::format("{} restart {}", token, restart);
}

std::string JobPlan::log_names() const { return log_file(*this, log_name + "_<rank>").string(); }

fs::path worker_log(const JobPlan& plan, int rank) {
  return log_file(plan, fmt::format("{}_{}", plan.log_name, rank));
}

std::vector<int> local_ranks(const JobPlan& plan, const Placement& placement) {
  std::vector<int> ranks;
  for (const WorkerSlot& slot : plan.slots)
    ranks.push_back(slot.rank.value_or(placement.first_rank + static_cast<int>(ranks.size())));
  return ranks;
}

std::vector<WorkerPlan> plan_workers(const JobPlan& plan, const Placement& placement) {
  const std::vector<int> ranks = local_ranks(plan, placement);
  std::vector<int> sorted = ranks;
  std::sort(sorted.begin(), sorted.end());
  std::vector<WorkerPlan> workers;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const auto place = std::lower_bound(sorted.begin(), sorted.end(), ranks[i]);
    const auto local_rank = static_cast<int>(place - sorted.begin());
    workers.push_back({ranks[i], worker_log(plan, ranks[i]),
                       worker_environment(plan, plan.slots[i], ranks[i], local_rank), plan.slots[i].cores});
  }
  return workers;
}

std::optional<WorkerPlan> plan_scheduler(const JobPlan& plan) {
  if (!plan.options.ms_scheduler) return std::nullopt;
  return WorkerPlan{kSchedulerRank, log_file(plan, "scheduler"), scheduler_environment(plan),
                    plan.scheduler_cores};
}

}  // namespace syncbn::launch
