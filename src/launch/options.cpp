#include "launch/options.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "launch/help.h"
#include "launch/option_table.h"
#include "syncbn/version.h"

namespace syncbn::launch {
namespace {

constexpr int kMaxRestarts = 1'000'000;
constexpr int kMaxWorkers = 65536;  // the sums on the wire are exact up to 2^16 ranks

int parse_int(std::string_view option, std::string_view text, int low, int high) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high)
    throw UsageError(fmt::format("{} is '{}'; allowed: an integer from {} to {}", option, text, low, high));
  return value;
}

bool parse_bool(std::string_view option, std::string_view text) {
  if (text != "True" && text != "False")
    throw UsageError(fmt::format("{} is '{}'; allowed: True, False", option, text));
  return text == "True";
}

std::optional<std::chrono::seconds> parse_time_out(std::string_view option, std::string_view text) {
  constexpr int kLimit = 1'000'000'000;  // what the workers read in MS_TOPO_TIMEOUT
  const int seconds = parse_int(option, text, -kLimit, kLimit);
  if (seconds == 0)
    throw UsageError(
        fmt::format("{} is '0'; allowed: seconds from 1, or a negative number for no limit", option));
  return seconds < 0 ? std::nullopt : std::optional(std::chrono::seconds(seconds));
}

std::vector<int> parse_ranks(std::string_view option, const std::string& text, int worker_num) {
  std::vector<int> ranks;
  if (text == "-1") {
    ranks.resize(static_cast<std::size_t>(worker_num));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }
  for (const std::string& part : CLI::detail::split(text, ',')) {
    int rank = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), rank);
    if (error != std::errc() || end != part.data() + part.size() || rank < 0 || rank >= worker_num)
      throw UsageError(
          fmt::format("{} is '{}'; allowed: -1 for all, or ranks from 0 to {} with commas between them",
                      option, text, worker_num - 1));
    ranks.push_back(rank);
  }
  return ranks;
}

bool takes_value(std::string_view name) {
  const auto& table = option_table();
  const auto row =
      std::find_if(table.begin(), table.end(), [name](const OptionRow& each) { return each.name == name; });
  return row == table.end() || !row->value.empty();
}

// CLI11 gives an option written `--option=` the next argument for its value. Written apart, an empty value
// stays one.
std::vector<std::string> separate_values(int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::vector<std::string> result;
  auto next = arguments.begin();
  while (next != arguments.end() && next->starts_with("--")) {
    const std::string option = *next++;
    const std::size_t equals = option.find('=');
    result.push_back(option.substr(0, equals));
    if (equals != std::string::npos) {
      result.push_back(option.substr(equals + 1));
    } else if (takes_value(option)) {
      if (next == arguments.end() || next->starts_with("--"))
        throw UsageError(fmt::format("{} has no value", option));
      result.push_back(*next++);
    }
  }
  result.insert(result.end(), next, arguments.end());
  return result;
}

void check_log_name(std::string_view option, const std::string& name) {
  if (name.find('/') != std::string::npos)
    throw UsageError(
        fmt::format("{} is '{}'; allowed: a file name without '/' (--log_dir is the place)", option, name));
}

// Every option's text, as it was given or by default, and the task.
struct CommandLine {
  std::map<std::string, std::string, std::less<>> text;
  std::set<std::string, std::less<>> given;
  std::vector<std::string> task;
};

CommandLine read_command_line(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app;
  app.set_help_flag();
  app.prefix_command();  // from the task script on, everything is the task's
  for (const OptionRow& option : option_table()) {
    const std::string name(option.name);
    if (option.value.empty()) {
      app.add_flag(name == "--help" ? "-h,--help" : name);
    } else {
      app.add_option(name, line.text[name] = option.default_value);
    }
  }
  try {
    std::vector<std::string> arguments = separate_values(argc, argv);
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the end
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  for (const OptionRow& option : option_table())
    if (app.count(std::string(option.name)) > 0) line.given.emplace(option.name);
  line.task = app.remaining();
  return line;
}

void check_dry_run(const Options& options) {
  if (options.sim_level < 0 && options.sim_rank_id >= 0)
    throw UsageError(fmt::format("--sim_rank_id is {}, and --sim_level, which asks for a dry run, is missing",
                                 options.sim_rank_id));
  if (options.sim_level >= 0 && options.ms_scheduler)
    throw UsageError(
        fmt::format("--ms_scheduler is True and --sim_level is {}; a dry run has no communication, so no "
                    "scheduler either",
                    options.sim_level));
}

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  const CommandLine line = read_command_line(argc, argv);
  if (line.given.contains("--help") || line.given.contains("--version")) {
    fmt::print("{}",
               line.given.contains("--help") ? help_text() : fmt::format("syncbn-run {}\n", SYNCBN_VERSION));
    return std::nullopt;
  }
  if (!line.task.empty() && line.task[0].starts_with("-"))
    throw UsageError(fmt::format("unknown option '{}'", line.task[0]));
  const auto text = [&line](std::string_view option) -> const std::string& {
    return line.text.find(option)->second;
  };
  const auto integer = [&text](std::string_view option, int low, int high) {
    return parse_int(option, text(option), low, high);
  };

  Options options;
  options.task = line.task;
  if (line.given.contains("--check_rank_table")) {
    options.check_rank_table = text("--check_rank_table");
    if (line.given.size() > 1 || !options.task.empty())
      throw UsageError("--check_rank_table runs nothing; allowed: no other option, no task script");
    return options;
  }
  options.worker_num = integer("--worker_num", 1, kMaxWorkers);
  options.local_worker_num = integer("--local_worker_num", 1, kMaxWorkers);
  const char* level = std::getenv("MS_SIMULATION_LEVEL");  // as msrun takes it, below the option
  options.sim_level = level == nullptr || line.given.contains("--sim_level")
                          ? integer("--sim_level", -1, 3)
                          : parse_int("MS_SIMULATION_LEVEL", level, -1, 3);
  options.sim_rank_id = integer("--sim_rank_id", -1, options.worker_num - 1);
  if (options.sim_level >= 0) options.local_worker_num = 1;
  if (options.local_worker_num > options.worker_num)
    throw UsageError(fmt::format(
        "--local_worker_num is {} and --worker_num, the whole job's, is {}; allowed: at most that",
        options.local_worker_num, options.worker_num));
  options.master_addr = text("--master_addr");
  if (options.master_addr.empty())
    throw UsageError("--master_addr is ''; allowed: a name or an address of the node where the workers meet");
  options.master_port = integer("--master_port", 1, 65535);
  options.node_rank = integer("--node_rank", -1, kMaxWorkers - 1);
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
