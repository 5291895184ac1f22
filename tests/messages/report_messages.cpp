// SPDX-License-Identifier: Apache-2.0
// Reports of syncbn-run on a job that runs or has ended
#include <stdlib.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "launch/membership.h"
#include "launch/report.h"
#include "launch/status_text.h"
#include "messages/messages.h"

namespace syncbn::testing {
namespace {

namespace fs = std::filesystem;
using namespace syncbn::launch;

std::string without_last_newline(const std::string& text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

constexpr int exited(int code) { return code << 8; }  // as waitpid() tells it

// `text` of four workers on this node of `worker_num` and a scheduler. Rank 1 has written `log`.
std::string report(const std::function<std::string(const JobPlan&, const std::vector<WorkerPlan>&)>& text,
                   const std::string& log = "", int worker_num = 4) {
  std::string folder = (fs::temp_directory_path() / "syncbn_messages_XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
  JobPlan plan;
  plan.options.worker_num = worker_num;
  plan.options.local_worker_num = 4;
  plan.options.master_addr = "10.0.0.1";
  plan.store_port = 8119;
  plan.cluster_time_out = std::chrono::seconds(60);
  plan.log_dir = folder;
  plan.log_name = "worker";
  plan.slots.resize(4);
  std::vector<WorkerPlan> workers;
  for (const int rank : {0, 1, 2, 3, kSchedulerRank}) {
    workers.push_back({rank, worker_log(plan, rank), {}, {}});
    std::ofstream(workers.back().log) << (rank == 1 ? log : "");
  }
  std::string result = text(plan, workers);
  for (std::size_t at = 0; (at = result.find(folder, at)) != std::string::npos;)
    result.replace(at, folder.size(), "/logs");
  fs::remove_all(folder);
  return without_last_newline(result);
}

std::string first_failure(int status, const std::string& log = "", const std::string& location = "",
                          const std::vector<int>& shown = {}) {
  return report(
      [&](const JobPlan& plan, const std::vector<WorkerPlan>& workers) {
        return end_by_failure({1, status}, workers, plan, location, shown).report;
      },
      log);
}

Node node(int number) {
  Node result;
  result.id = std::to_string(number);
  result.worker_num = 8;
  result.local_worker_num = 4;
  result.serves_store = number == 0;
  result.pid = 4711 + number;
  result.host = "node" + std::to_string(number);
  result.address = "10.0.0." + std::to_string(number + 1);
  return result;
}

// The end of a job whose second node, changed by `change`, does not fit the first.
std::string disagreement(void (*change)(Node&)) {
  Node second = node(1);
  change(second);
  Membership membership(node(0));
  membership.apply(arrival_event(node(0)));
  membership.apply(arrival_event(second));
  return membership.end() ? without_last_newline(membership.end()->report) : "ok";
}

std::string with_first_node(const std::function<std::string(const JobPlan&, const Membership&)>& text,
                            const std::string& address = "10.0.0.1") {
  Node first = node(0);
  first.address = address;
  Membership membership(first);
  membership.apply(arrival_event(first));
  return report(
      [&](JobPlan plan, const auto&) {
        plan.options.master_addr = address;
        return text(plan, membership);
      },
      "", 8);
}

}  // namespace

std::vector<Message> report_messages() {
  const std::string where = " on node 1 (node1, 10.0.0.2)";
  return {
      {"syncbn-run: a worker failed", [] { return first_failure(exited(6), "one\ntwo\n"); }},
      {"syncbn-run: a worker was killed", [] { return first_failure(SIGKILL, "one\n"); }},
      {"syncbn-run: a worker failed on one of several nodes",
       [=] { return first_failure(exited(6), "one\n", where); }},
      {"syncbn-run: a worker failed without a word", [] { return first_failure(exited(6)); }},
      {"syncbn-run: a worker failed whose output is shown",
       [] { return first_failure(exited(6), "one\n", "", {1}); }},
      {"syncbn-run: a worker failed in MindSpore's init()",
       [] { return first_failure(exited(1), "mindspore.communication.init() needs 'msrun'\n"); }},
      {"syncbn-run: workers failed after the first",
       [] {
         return report(
             [](const JobPlan&, const std::vector<WorkerPlan>& workers) {
               return describe_later({{1, exited(6)}, {kSchedulerRank, SIGSEGV}}, workers, {1});
             },
             "one\n");
       }},
      {"syncbn-run: ended by a signal",
       [=] { return without_last_newline(end_by_signal(SIGTERM, where).report); }},
      {"syncbn-run: workers that did not join",
       [=] {
         return report([&](const JobPlan& plan, const auto&) {
           return end_by_missing_workers({1, 3}, plan, where).report;
         });
       }},
      {"syncbn-run: nodes that did not arrive",
       [] {
         return with_first_node([](const JobPlan& plan, const Membership& membership) {
           return end_by_missing_nodes(membership, plan).report;
         });
       }},
      {"syncbn-run: nodes that did not arrive at a loopback address",
       [] {
         return with_first_node(
             [](const JobPlan& plan, const Membership& membership) {
               return end_by_missing_nodes(membership, plan).report;
             },
             "127.0.0.1");
       }},
      {"syncbn-run: no launcher at the master's address",
       [] {
         return report([](const JobPlan& plan, const auto&) {
           return end_by_unreachable_store("Connection refused", "", plan, false).report;
         });
       }},
      {"syncbn-run: a launcher of another job at the master's address",
       [] {
         return report([](const JobPlan& plan, const auto&) {
           return end_by_unreachable_store("the job's token was refused", "Address already in use", plan,
                                           true)
               .report;
         });
       }},
      {"syncbn-run: the launcher with the store was lost",
       [] {
         return with_first_node([](const JobPlan&, const Membership& membership) {
           return end_by_lost_store(membership, "connection closed").report;
         });
       }},
      {"syncbn-run: nodes with different --worker_num",
       [] { return disagreement([](Node& second) { second.worker_num = 6; }); }},
      {"syncbn-run: nodes with different --max_restarts",
       [] { return disagreement([](Node& second) { second.max_restarts = 1; }); }},
      {"syncbn-run: nodes with different rank tables",
       [] { return disagreement([](Node& second) { second.rank_table = "digest"; }); }},
      {"syncbn-run: a node with --node_rank and one without",
       [] { return disagreement([](Node& second) { second.node_rank = 1; }); }},
      {"syncbn-run: nodes with too many workers",
       [] { return disagreement([](Node& second) { second.local_worker_num = 5; }); }},
      {"syncbn-run: workers are waited for",
       [] {
         return report([](const JobPlan& plan, const auto&) {
           return wait_for_workers_text(plan, {0, 1, 2}, {3}, std::nullopt);
         });
       }},
      {"syncbn-run: workers were started",
       [] { return report([](const JobPlan& plan, const auto&) { return started_text(plan, {}); }); }},
  };
}

}  // namespace syncbn::testing
