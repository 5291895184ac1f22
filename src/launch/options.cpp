#include "launch/options.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>
#include <utility>

#include "launch/help.h"
#include "syncbn/version.h"

namespace syncbn::launch {
namespace {

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
    } else if (option != "--help" && option != "--version") {
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

}  // namespace

std::optional<Options> parse_options(int argc, const char* const* argv) {
  Options options;
  std::string worker_num = std::to_string(options.worker_num);
  std::string local_worker_num = std::to_string(options.local_worker_num);
  std::string master_port = std::to_string(options.master_port);
  std::string node_rank = "-1";
  std::string join = options.join ? "True" : "False";
  std::string time_out = std::to_string(options.cluster_time_out->count());
  std::string tail = "-1";
  bool help = false;
  bool version = false;

  CLI::App app;
  app.set_help_flag();
  app.prefix_command();  // from the task script on, everything is the task's
  app.add_option("--worker_num", worker_num);
  app.add_option("--local_worker_num", local_worker_num);
  app.add_option("--master_addr", options.master_addr);
  app.add_option("--master_port", master_port);
  app.add_option("--node_rank", node_rank);
  app.add_option("--log_dir", options.log_dir);
  app.add_option("--worker_log_name", options.worker_log_name);
  app.add_option("--join", join);
  app.add_option("--cluster_time_out", time_out);
  app.add_option("--tail_worker_log", tail);
  app.add_flag("--help,-h", help);
  app.add_flag("--version", version);
  try {
    std::vector<std::string> arguments = separate_values(argc, argv);
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the end
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  if (help || version) {
    fmt::print("{}", help ? help_text() : fmt::format("syncbn-run {}\n", SYNCBN_VERSION));
    return std::nullopt;
  }

  options.task = app.remaining();
  if (!options.task.empty() && options.task[0].starts_with("-"))
    throw UsageError(fmt::format("unknown option '{}'", options.task[0]));
  options.worker_num = parse_int("--worker_num", worker_num, 1, kMaxWorkers);
  options.local_worker_num = parse_int("--local_worker_num", local_worker_num, 1, kMaxWorkers);
  if (options.local_worker_num > options.worker_num)
    throw UsageError(fmt::format("--local_worker_num is {} and --worker_num is {}; allowed: at most that",
                                 options.local_worker_num, options.worker_num));
  options.node_rank = parse_int("--node_rank", node_rank, -1, options.worker_num - 1);
  if (options.master_addr.empty())
    throw UsageError("--master_addr is ''; allowed: a name or an address of this machine");
  options.master_port = parse_int("--master_port", master_port, 1, 65535);
  options.join = parse_bool("--join", join);
  options.cluster_time_out = parse_time_out("--cluster_time_out", time_out);
  options.tail_worker_log = parse_ranks("--tail_worker_log", tail, options.worker_num);
  check_log_name("--worker_log_name", options.worker_log_name);
  if (options.task.empty()) throw UsageError("the task script is missing");
  return options;
}

}  // namespace syncbn::launch
