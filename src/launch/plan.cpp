#include "launch/plan.h"

#include <fmt/core.h>
#include <netdb.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

extern char** environ;

namespace syncbn::launch {
namespace {

namespace fs = std::filesystem;

// What msrun tells its workers: left over from a job around this one, it would speak of another world.
const std::set<std::string, std::less<>> kForeign = {"MS_ROLE",       "MS_SCHED_HOST", "MS_SCHED_PORT",
                                                     "MS_WORKER_NUM", "MS_NODE_ID",    "LOCAL_RANK_SIZE"};

int store_port(const Options& options) {
  const char* text = std::getenv("SYNCBN_PORT");
  if (text == nullptr) {
    if (options.master_port == 65535)
      throw UsageError(
          "--master_port is 65535; allowed: up to 65534, or SYNCBN_PORT set, as the workers meet at the next "
          "port");
    return options.master_port + 1;
  }
  const std::string_view value = text;
  int port = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), port);
  if (error != std::errc() || end != value.data() + value.size() || port < 1 || port > 65535)
    throw UsageError(fmt::format("SYNCBN_PORT is '{}'; allowed: an integer from 1 to 65535", value));
  return port;
}

std::string random_token() {
  std::array<unsigned char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw std::system_error(errno, std::generic_category(), "getrandom");
  std::string token;
  for (const unsigned char byte : bytes) token += fmt::format("{:02x}", byte);
  return token;
}

std::string numeric_address(const std::string& host) {
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, nullptr, &found); error != 0)
    throw UsageError(fmt::format("--master_addr is '{}': {}", host, gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::array<char, NI_MAXHOST> text{};
  getnameinfo(found->ai_addr, found->ai_addrlen, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
  return text.data();
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string log_name(const Options& options) {
  if (options.worker_log_name.empty()) return "worker";
  std::string name = options.worker_log_name;
  const auto fill = [&name](std::string_view mark, auto value) {
    for (auto at = name.find(mark); at != std::string::npos; at = name.find(mark))
      name.replace(at, mark.size(), value());
  };
  fill("{ip}", [&] { return numeric_address(options.master_addr); });
  fill("{hostname}", host_name);
  return name;
}

using Variables = std::vector<std::pair<std::string, std::string>>;

// This process's environment with `variables` in place of what it said of them.
std::vector<std::string> environment_with(const Variables& variables) {
  std::set<std::string, std::less<>> dropped = kForeign;
  for (const auto& [name, value] : variables) dropped.insert(name);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!dropped.contains(text.substr(0, text.find('=')))) environment.emplace_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(fmt::format("{}={}", name, value));
  return environment;
}

Variables worker_variables(const JobPlan& plan, const Placement& placement, int local_rank) {
  const Options& options = plan.options;
  const std::string number = std::to_string(placement.first_rank + local_rank);
  const std::string local_number = std::to_string(local_rank);
  const std::string size = std::to_string(options.worker_num);
  Variables variables = {
      {"RANK_ID", number},
      {"RANK", number},
      {"RANK_SIZE", size},
      {"WORLD_SIZE", size},
      {"DEVICE_ID", local_number},
      {"LOCAL_RANK", local_number},
      {"LOCAL_WORLD_SIZE", std::to_string(options.local_worker_num)},
      {"MASTER_ADDR", options.master_addr},
      {"MASTER_PORT", std::to_string(options.master_port)},
      {"MS_TOPO_TIMEOUT", std::to_string(options.cluster_time_out ? options.cluster_time_out->count() : -1)},
      {"SYNCBN_STORE", fmt::format("{}:{}", options.master_addr, plan.store_port)},
      {"SYNCBN_TOKEN", plan.token},
  };
  if (std::getenv("PYTHONUNBUFFERED") == nullptr) variables.emplace_back("PYTHONUNBUFFERED", "1");
  return variables;
}

}  // namespace

JobPlan make_plan(const Options& options) {
  JobPlan plan;
  plan.options = options;
  plan.command = resolve_command(options.task);
  plan.store_port = store_port(options);
  const char* token = std::getenv("SYNCBN_TOKEN");
  plan.token = token != nullptr ? token : "";
  // A random one could not be known to the other nodes.
  if (plan.token.empty() && !plan.several_nodes()) plan.token = random_token();
  if (options.worker_num > 1) plan.cluster_time_out = options.cluster_time_out;
  plan.log_dir = fs::absolute(options.log_dir.empty() ? "." : options.log_dir).lexically_normal();
  plan.job_log = plan.log_dir / "syncbn-run.log";
  plan.log_names = (plan.log_dir / fmt::format("{}_<rank>.log", log_name(options))).string();
  return plan;
}

std::vector<WorkerPlan> plan_workers(const JobPlan& plan, const Placement& placement) {
  const std::string name = log_name(plan.options);
  std::vector<WorkerPlan> workers;
  for (int i = 0; i < plan.options.local_worker_num; ++i) {
    const int rank = placement.first_rank + i;
    workers.push_back({rank, plan.log_dir / fmt::format("{}_{}.log", name, rank),
                       environment_with(worker_variables(plan, placement, i))});
  }
  return workers;
}

}  // namespace syncbn::launch
