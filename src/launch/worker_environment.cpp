// SPDX-License-Identifier: Apache-2.0
#include "launch/worker_environment.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

namespace syncbn::launch {
namespace {

using Variables = std::vector<std::pair<std::string, std::string>>;

// Variables that launchers set for their workers. Those of a job around this one would describe another
// world.
const std::set<std::string, std::less<>> kLauncherVariables = {
    "RANK_ID",          "RANK",          "RANK_SIZE",           "WORLD_SIZE",
    "DEVICE_ID",        "LOCAL_RANK",    "LOCAL_RANK_SIZE",     "MS_ROLE",
    "LOCAL_WORLD_SIZE", "MASTER_ADDR",   "MASTER_PORT",         "MS_TOPO_TIMEOUT",
    "SYNCBN_STORE",     "MS_NODE_ID",    "SYNCBN_TOKEN",        "MS_SCHED_HOST",
    "MS_SCHED_PORT",    "MS_WORKER_NUM", "MS_SIMULATION_LEVEL", "SYNCBN_RESTART"};

std::vector<std::string> environment_with(const Variables& variables) {
  std::set<std::string, std::less<>> dropped = kLauncherVariables;
  for (const auto& [name, value] : variables) dropped.insert(name);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!dropped.contains(text.substr(0, text.find('=')))) environment.emplace_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(fmt::format("{}={}", name, value));
  return environment;
}

std::string time_out(const Options& options) {
  return std::to_string(options.cluster_time_out ? options.cluster_time_out->count() : -1);
}

void append(Variables& variables, const Variables& more) {
  variables.insert(variables.end(), more.begin(), more.end());
}

// Variables for MindSpore's workers and scheduler.
Variables mindspore_variables(const JobPlan& plan) {
  return {{"MS_WORKER_NUM", std::to_string(plan.options.worker_num)},
          {"MS_SCHED_HOST", plan.scheduler_host},
          {"MS_SCHED_PORT", std::to_string(plan.options.master_port)}};
}

// Variables with the same values in all processes of the job.
Variables common_variables(const JobPlan& plan) {
  Variables variables = {{"RANK_SIZE", std::to_string(plan.options.worker_num)},
                         {"SYNCBN_RESTART", std::to_string(plan.restart)}};
  if (!plan.options.rank_table_file.empty())
    variables.emplace_back("RANK_TABLE_FILE",
                           std::filesystem::absolute(plan.options.rank_table_file).lexically_normal());
  if (std::getenv("PYTHONUNBUFFERED") == nullptr) variables.emplace_back("PYTHONUNBUFFERED", "1");
  return variables;
}

}  // namespace

std::vector<std::string> worker_environment(const JobPlan& plan, const WorkerSlot& slot, int rank,
                                            int local_rank) {
  const Options& options = plan.options;
  const std::string number = std::to_string(rank);
  Variables variables = common_variables(plan);
  append(variables, {{"RANK_ID", number},
                     {"RANK", number},
                     {"WORLD_SIZE", std::to_string(options.worker_num)},
                     {"DEVICE_ID", slot.device},
                     {"LOCAL_RANK", std::to_string(local_rank)},
                     {"LOCAL_WORLD_SIZE", std::to_string(options.local_worker_num)}});
  if (plan.dry_run()) {
    append(variables, {{"MS_SIMULATION_LEVEL", std::to_string(options.sim_level)}});
  } else {
    append(variables, {{"MASTER_ADDR", options.master_addr},
                       {"MASTER_PORT", std::to_string(options.master_port)},
                       {"MS_TOPO_TIMEOUT", time_out(options)},
                       {"SYNCBN_STORE", fmt::format("{}:{}", options.master_addr, plan.store_port)},
                       {"SYNCBN_TOKEN", plan.start_token()}});
  }
  if (options.ms_scheduler) {
    append(variables, mindspore_variables(plan));
    append(variables, {{"MS_ROLE", "MS_WORKER"}, {"MS_NODE_ID", number}});
  }
  // The library divides a process's cores by the number of ranks on the host. A bound worker does not share
  // its cores.
  if (!slot.cores.empty() && std::getenv("SYNCBN_NUM_THREADS") == nullptr &&
      std::getenv("OMP_NUM_THREADS") == nullptr)
    append(variables, {{"SYNCBN_NUM_THREADS", std::to_string(slot.cores.size())}});
  return environment_with(variables);
}

std::vector<std::string> scheduler_environment(const JobPlan& plan) {
  Variables variables = common_variables(plan);
  append(variables, mindspore_variables(plan));
  append(variables, {{"RANK_ID", "0"}, {"MS_ROLE", "MS_SCHED"}, {"MS_TOPO_TIMEOUT", time_out(plan.options)}});
  return environment_with(variables);
}

}  // namespace syncbn::launch
