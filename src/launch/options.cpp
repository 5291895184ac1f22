// SPDX-License-Identifier: Apache-2.0
#include "launch/options.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string_view>

#include "base/rank_list.h"
#include "environment/parse.h"
#include "environment/world_spec.h"
#include "launch/option_table.h"
#include "syncbn/version.h"

namespace syncbn::launch {
namespace {

constexpr int kMaxRestarts = 1'000'000;

int parse_integer(std::string_view option, std::string_view text, int low, int high) {
  const std::optional<int> value = environment::parse<int>(text);
  if (!value || *value < low || *value > high)
    throw UsageError(fmt::format("{} is '{}'; allowed: an integer from {} to {}", option, text, low, high));
  return *value;
}

bool parse_bool(std::string_view option, std::string_view text) {
  if (text != "True" && text != "False")
    throw UsageError(fmt::format("{} is '{}'; allowed: True, False", option, text));
  return text == "True";
}

std::optional<std::chrono::seconds> parse_time_out(std::string_view option, std::string_view text) {
  constexpr int kLimit = 1'000'000'000;  // the workers accept as much in MS_TOPO_TIMEOUT
  const int seconds = parse_integer(option, text, -kLimit, kLimit);
  if (seconds == 0)
    throw UsageError(
        fmt::format("{} is '0'; allowed: seconds from 1, or a negative number for no limit", option));
  return seconds < 0 ? std::nullopt : std::optional(std::chrono::seconds(seconds));
}

std::vector<int> parse_ranks(std::string_view option, const std::string& text, int worker_num) {
  if (text == "-1") return base::all_ranks(worker_num);
  std::vector<int> ranks;
  std::istringstream parts(text + ',');  // an empty part, the last one too, is an error
  for (std::string part; std::getline(parts, part, ',');) {
    const int rank = environment::parse<int>(part).value_or(-1);
    if (rank < 0 || rank >= worker_num)
      throw UsageError(
          fmt::format("{} is '{}'; allowed: -1 for all, or ranks from 0 to {} with commas between them",
                      option, text, worker_num - 1));
    ranks.push_back(rank);
  }
  return ranks;
}

void check_log_name(std::string_view option, const std::string& name) {
  if (name.find('/') != std::string::npos)
    throw UsageError(fmt::format(
        "{} is '{}'; allowed: a file name without '/' (--log_dir chooses the directory)", option, name));
}

// The command line as text. An option is written --option=value or --option value. The first argument that is
// not an option starts the task.
struct CommandLine {
  std::map<std::string, std::string, std::less<>> values;  // of every option, given or by default
  std::set<std::string, std::less<>> given;
  std::vector<std::string> task;
};

CommandLine read_command_line(int argc, const char* const* argv) {
  CommandLine line;
  for (const OptionRow& row : option_table()) line.values.emplace(row.name, row.default_value);
  int next = 1;
  while (next < argc && argv[next][0] == '-') {
    const std::string argument = argv[next++];
    const std::size_t equals = argument.find('=');
    const std::string as_given = argument.substr(0, equals);
    const OptionRow* row = find_option(as_given);
    if (row == nullptr) throw UsageError(describe_unknown_option(as_given));
    const std::string name(row->name);
    const bool repeated = !line.given.insert(name).second;
    if (row->value.empty()) continue;
    if (repeated) throw UsageError(fmt::format("{} is given twice; allowed: once", name));
    if (equals != std::string::npos)
      line.values[name] = argument.substr(equals + 1);
    else if (next < argc && !std::string_view(argv[next]).starts_with("--"))
      line.values[name] = argv[next++];
    else
      throw UsageError(fmt::format("{} has no value", name));
  }
  line.task.assign(argv + next, argv + argc);
  return line;
}

void check_dry_run(const Options& options) {
  if (options.sim_level < 0 && options.sim_rank_id >= 0)
    throw UsageError(fmt::format(
        "--sim_rank_id is {} and --sim_level is missing; allowed: only in a dry run (--sim_level)",
        options.sim_rank_id));
  if (options.sim_level >= 0 && options.ms_scheduler)
    throw UsageError(
        fmt::format("--ms_scheduler is True and --sim_level is {}; allowed: one of the two (a dry run has no "
                    "communication)",
                    options.sim_level));
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  const CommandLine line = read_command_line(argc, argv);
  if (line.given.contains("--help") || line.given.contains("--version")) {
    fmt::print("{}", line.given.contains("--help")
                         ? help_text()
                         : fmt::format("syncbn-run {}\nbits_version {}\n", SYNCBN_VERSION, kBitsVersion));
    return std::nullopt;
  }
  const auto text = [&line](std::string_view option) -> const std::string& {
    return line.values.find(option)->second;
  };
  const auto integer = [&text](std::string_view option, int low, int high) {
    return parse_integer(option, text(option), low, high);
  };

  Options options;
  options.task = line.task;
  if (line.given.contains("--check_rank_table")) {
    options.check_rank_table = text("--check_rank_table");
    if (line.given.size() > 1 || !options.task.empty())
      throw UsageError("--check_rank_table runs nothing; allowed: no other option, no task script");
    return options;
  }
  options.worker_num = integer("--worker_num", 1, base::kMaxRanks);
  // --worker_num alone is a job on one node.
  options.local_worker_num = line.given.contains("--worker_num") && !line.given.contains("--local_worker_num")
                                 ? options.worker_num
                                 : integer("--local_worker_num", 1, base::kMaxRanks);
  const char* level = std::getenv("MS_SIMULATION_LEVEL");  // like msrun: the option has priority
  options.sim_level = level == nullptr || line.given.contains("--sim_level")
                          ? integer("--sim_level", -1, 3)
                          : parse_integer("MS_SIMULATION_LEVEL", level, -1, 3);
  options.sim_rank_id = integer("--sim_rank_id", -1, options.worker_num - 1);
  if (options.sim_level >= 0) options.local_worker_num = 1;
  if (options.local_worker_num > options.worker_num)
    throw UsageError(fmt::format(
        "--local_worker_num is {} and --worker_num, of the whole job, is {}; allowed: at most --worker_num",
        options.local_worker_num, options.worker_num));
  options.master_addr = text("--master_addr");
  if (options.master_addr.empty())
    throw UsageError("--master_addr is ''; allowed: a name or an address of the node where the workers meet");
  options.master_port = integer("--master_port", 1, environment::kMaxPort);
  options.master_port_given = line.given.contains("--master_port");
  options.node_rank = integer("--node_rank", -1, base::kMaxRanks - 1);
  options.log_dir = text("--log_dir");
  options.worker_log_name = text("--worker_log_name");
  check_log_name("--worker_log_name", options.worker_log_name);
  options.join = parse_bool("--join", text("--join"));
  options.cluster_time_out = parse_time_out("--cluster_time_out", text("--cluster_time_out"));
  options.max_restarts = integer("--max_restarts", 0, kMaxRestarts);
  options.tail_worker_log = parse_ranks("--tail_worker_log", text("--tail_worker_log"), options.worker_num);
  options.bind_core = parse_bind_core(text("--bind_core"));
  options.rank_table_file = text("--rank_table_file");
  options.ms_scheduler = parse_bool("--ms_scheduler", text("--ms_scheduler"));
  check_dry_run(options);
  if (options.task.empty()) throw UsageError("the task script is missing");
  return options;
}

}  // namespace syncbn::launch
