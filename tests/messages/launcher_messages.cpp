// SPDX-License-Identifier: Apache-2.0
// Environments of launchers, rank tables, and the command line of syncbn-run
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>

#include "environment/launch_env.h"
#include "environment/rank_table.h"
#include "messages/messages.h"
#include "outcome.h"

namespace syncbn::testing {
namespace {

using Variables = std::map<std::string, std::string>;

environment::Getenv from(const Variables& variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

// torchrun's variables with `more` set or, where empty, not set.
std::string torchrun(const Variables& more) {
  Variables variables = {{"RANK", "2"},        {"WORLD_SIZE", "4"},
                         {"LOCAL_RANK", "0"},  {"LOCAL_WORLD_SIZE", "2"},
                         {"MASTER_ADDR", "h"}, {"MASTER_PORT", "29500"}};
  for (const auto& [name, value] : more) {
    variables[name] = value;
    if (value.empty()) variables.erase(name);
  }
  return outcome([&] { environment::read_launch_env(from(variables)); });
}

std::string environment(const Variables& variables) {
  return outcome([&] { environment::read_launch_env(from(variables)); });
}

std::string table(const std::string& text) {
  const auto file = std::filesystem::temp_directory_path() / ("syncbn_messages_" + std::to_string(getpid()));
  std::ofstream(file, std::ios::binary) << text;
  std::string message = outcome([&] { environment::read_rank_table(file); });
  std::filesystem::remove(file);
  const std::size_t at = message.find(file.string());
  if (at != std::string::npos) message.replace(at, file.string().size(), "table.json");
  const std::size_t parser = message.find("syntax error");  // the parser's own words from here on
  return parser == std::string::npos ? message : message.substr(0, parser) + "*";
}

// A table of one server; what is wrong in it stands in `servers`.
std::string servers(const std::string& servers) {
  return table(R"({"version": "1.0", "status": "completed", "server_count": "1", "server_list": )" + servers +
               "}");
}
std::string devices(const std::string& devices) {
  return servers(R"([{"server_id": "10.0.0.1", "device": )" + devices + "}]");
}

constexpr const char* kTwoServersOfThree = R"({"version": "1.0", "status": "completed", "server_count": "3",
  "server_list": [{"server_id": "a", "device": [{"device_id": "0", "rank_id": "0"}]},
                  {"server_id": "b", "device": [{"device_id": "0", "rank_id": "1"}]}]})";

// Output of syncbn-run, which refuses these arguments.
std::string syncbn_run(const std::string& arguments) {
  const std::string command = std::string(SYNCBN_RUN) + " " + arguments + " 2>&1 < /dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> output(popen(command.c_str(), "r"), pclose);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), output.get()));
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

// Command lines that syncbn-run refuses.
std::vector<Message> command_lines() {
  std::vector<Message> messages;
  const std::pair<const char*, const char*> cases[] = {
      {"an integer", "--worker_num=two true"},
      {"too many local workers", "--worker_num=2 --local_worker_num=8 true"},
      {"the last port", "--worker_num=1 --local_worker_num=1 --master_port=65535 true"},
      {"an address", "--master_addr= true"},
      {"a truth value", "--join=1 true"},
      {"a time", "--cluster_time_out=0 true"},
      {"ranks whose logs are shown", "--tail_worker_log=0,,1 true"},
      {"a log's name", "--worker_log_name=a/b true"},
      {"a dry run's rank without a dry run", "--sim_rank_id=0 true"},
      {"a dry run with a scheduler", "--sim_level=0 --ms_scheduler=True true"},
      {"a rank table to check, and more", "--check_rank_table /no/file --join=True"},
      {"a rank table that is absent", "--rank_table_file=/no/file true"},
      {"an unknown option", "--worker 2 true"},
      {"an option without a value", "--log_dir --join True true"},
      {"an option twice", "--worker_num=2 --worker_num=3 true"},
      {"no task", ""},
      {"a task that does not exist", "/no/such/program"},
      {"a task that is not in PATH", "no-such-program"},
      {"a task that is not executable", "/etc/passwd"},
      {"cores that are no JSON", "--bind_core=some true"},
      {"cores of an unknown key", "--bind_core='{\"gpu0\": [\"0\"]}' true"},
      {"cores that are no list", "--bind_core='{\"device0\": \"0\"}' true"},
  };
  for (const auto& [name, arguments] : cases)
    messages.push_back(
        {std::string("syncbn-run: ") + name, [arguments = arguments] { return syncbn_run(arguments); }});
  return messages;
}

}  // namespace

std::vector<Message> launcher_messages() {
  const Variables msrun = {
      {"MS_WORKER_NUM", "4"}, {"MS_SCHED_HOST", "h"}, {"MS_SCHED_PORT", "1"}, {"RANK_ID", "1"}};
  const auto with_msrun = [msrun](const char* name, const char* value) {
    Variables variables = msrun;
    variables[name] = value;
    return environment(variables);
  };
  std::vector<Message> messages = {
      {"environment: variables are missing",
       [] {
         return environment({{"RANK", "0"}, {"WORLD_SIZE", "2"}});
       }},
      {"environment: a number",
       [] {
         return torchrun({{"WORLD_SIZE", "two"}});
       }},
      {"environment: a rank",
       [] {
         return torchrun({{"RANK", "-1"}});
       }},
      {"environment: a rank outside the world",
       [] {
         return torchrun({{"RANK", "4"}});
       }},
      {"environment: a local rank outside its machine",
       [] {
         return torchrun({{"LOCAL_RANK", "2"}});
       }},
      {"environment: more local ranks than ranks",
       [] {
         return torchrun({{"LOCAL_WORLD_SIZE", "5"}});
       }},
      {"environment: a port",
       [] {
         return torchrun({{"SYNCBN_PORT", "0"}});
       }},
      {"environment: the last port",
       [] {
         return torchrun({{"MASTER_PORT", "65535"}});
       }},
      {"environment: backend",
       [] {
         return environment({{"SYNCBN_BACKEND", "nccl"}});
       }},
      {"environment: store",
       [] {
         return environment({{"SYNCBN_STORE", "host"}, {"RANK_ID", "0"}, {"RANK_SIZE", "2"}});
       }},
      {"environment: role", [=] { return with_msrun("MS_ROLE", "MS_PSERVER"); }},
      {"environment: two sizes", [=] { return with_msrun("RANK_SIZE", "8"); }},
      {"environment: a dry run's level",
       [] {
         return environment({{"MS_SIMULATION_LEVEL", "4"}, {"RANK_ID", "0"}, {"RANK_SIZE", "2"}});
       }},
      {"environment: ranks of no known launcher",
       [] {
         return environment({{"RANK_ID", "0"}, {"RANK_SIZE", "8"}});
       }},
      {"environment: Slurm's nodes",
       [] {
         return environment({{"SLURM_JOB_ID", "42"},
                             {"SLURM_STEP_ID", "3"},
                             {"SLURM_STEP_NODELIST", "n["},
                             {"SLURM_STEP_NUM_TASKS", "2"},
                             {"SLURM_STEP_TASKS_PER_NODE", "2"},
                             {"SLURM_NODEID", "0"},
                             {"SLURM_PROCID", "0"},
                             {"SLURM_LOCALID", "0"}});
       }},
      {"environment: timeout",
       [] { return outcome([] {
              environment::read_timeout(from({{"SYNCBN_TIMEOUT_S", "soon"}}));
            }); }},
      {"environment: shared memory",
       [] {
         return outcome([] { environment::read_shared_memory(from({{"SYNCBN_SHARED_MEMORY", "off"}})); });
       }},
      {"rank table: absent",
       [] { return outcome([] { environment::read_rank_table("/no/such/table.json"); }); }},
      {"rank table: no JSON", [] { return table("{"); }},
      {"rank table: no object", [] { return table("[]"); }},
      {"rank table: nested too deep", [] { return table(std::string(100, '[')); }},
      {"rank table: too long", [] { return table(std::string((16 << 20) + 1, ' ')); }},
      {"rank table: a key twice", [] { return table(R"({"version": "1.0", "version": "1.0"})"); }},
      {"rank table: version", [] { return table(R"({"version": "2.0"})"); }},
      {"rank table: status", [] { return table(R"({"version": "1.0", "status": "initializing"})"); }},
      {"rank table: no servers", [] { return servers("[]"); }},
      {"rank table: server_count", [] { return table(kTwoServersOfThree); }},
      {"rank table: server_id", [] { return servers("[{}]"); }},
      {"rank table: no devices", [] { return devices("[]"); }},
      {"rank table: device_id", [] { return devices(R"([{"device_id": 7}])"); }},
      {"rank table: device_ip", [] { return devices(R"([{"device_id": "7", "device_ip": 1}])"); }},
      {"rank table: rank_id", [] { return devices(R"([{"device_id": "7", "rank_id": "x"}])"); }},
      {"rank table: a rank outside the table",
       [] { return devices(R"([{"device_id": "7", "rank_id": "4"}])"); }},
      {"rank table: a device twice",
       [] { return devices(R"([{"device_id": "7", "rank_id": "0"}, {"device_id": "7", "rank_id": "1"}])"); }},
      {"rank table: a rank twice",
       [] { return devices(R"([{"device_id": "7", "rank_id": "0"}, {"device_id": "8", "rank_id": "0"}])"); }},
      {"rank table: of other machines",
       [] {
         environment::RankTable of_others;
         of_others.servers.resize(2);
         of_others.servers[0].server_id = "10.0.0.1";
         of_others.servers[1].server_id = "10.0.0.2";
         return outcome([&] { environment::own_server(of_others, {"10.0.0.3", "127.0.0.1"}); });
       }},
      {"rank table: two servers are this machine",
       [] {
         environment::RankTable doubled;
         doubled.servers.resize(2);
         doubled.servers[0].server_id = "10.0.0.1";
         doubled.servers[1].server_id = "10.0.0.2";
         return outcome([&] { environment::own_server(doubled, {"10.0.0.1", "10.0.0.2"}); });
       }},
  };
  for (const Message& message : command_lines()) messages.push_back(message);
  return messages;
}

}  // namespace syncbn::testing
