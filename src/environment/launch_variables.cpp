// SPDX-License-Identifier: Apache-2.0
#include "environment/launch_variables.h"

#include <fmt/core.h>

#include "environment/parse.h"
#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

void append_item(std::string& list, const std::string& item) {
  list += fmt::format("{}{}", list.empty() ? "" : ", ", item);
}

}  // namespace

std::optional<std::string> LaunchVariables::text(const char* name) {
  auto value = getenv_(name);
  if (value) append_item(found_, fmt::format("{}='{}'", name, *value));
  return value;
}

std::optional<int> LaunchVariables::number(const char* name, int low, int high, const char* allowed) {
  const auto value = text(name);
  if (!value) return std::nullopt;
  const auto parsed = parse<int>(*value);
  if (!parsed || *parsed < low || *parsed > high)
    fail(fmt::format("{}: '{}', expected {}", name, *value, allowed));
  return parsed;
}

std::optional<int> LaunchVariables::size(const char* name) {
  return number(name, 1, INT32_MAX, "a number of ranks >= 1");
}

std::optional<int> LaunchVariables::rank(const char* name) {
  return number(name, 0, INT32_MAX, "a rank >= 0");
}

std::optional<int> LaunchVariables::port(const char* name) {
  return number(name, 1, kMaxPort, "a port in [1, 65535]");
}

std::optional<std::uint64_t> LaunchVariables::id(const char* name) {
  const auto value = text(name);
  if (!value) return std::nullopt;
  const auto parsed = parse<std::uint64_t>(*value);
  if (!parsed) fail(fmt::format("{}: '{}', expected a number", name, *value));
  return parsed;
}

void LaunchVariables::note_missing(const char* name) { append_item(missing_, name); }

void LaunchVariables::check_complete() const {
  if (!missing_.empty()) fail(fmt::format("{} missing", missing_));
}

void LaunchVariables::fail(const std::string& reason) const {
  throw GroupError(fmt::format("environment of {}: {} (found {})", launcher_, reason,
                               found_.empty() ? "nothing" : found_));
}

void set_rank(LaunchVariables& variables, LaunchEnv& env, std::optional<int> rank, int size) {
  if (rank && *rank >= size)
    variables.fail(fmt::format("rank {} of {} ranks, expected a rank in [0, {})", *rank, size, size));
  env.world.rank = rank;
  env.world.size = size;
}

void set_local(LaunchVariables& variables, LaunchEnv& env, std::optional<int> rank, std::optional<int> size) {
  env.local_rank = rank.value_or(0);
  env.local_size = size.value_or(1);
  if (rank && size && *rank >= *size) {
    variables.fail(fmt::format("local rank {} of {} local ranks, expected less", *rank, *size));
  }
  if (env.local_size > env.world.size) {
    variables.fail(
        fmt::format("{} local ranks of {} ranks, expected at most as many", env.local_size, env.world.size));
  }
}

bool needs_rendezvous(const LaunchEnv& env) { return env.backend == Backend::gloo && env.world.size > 1; }

int port_above(LaunchVariables& variables, const char* name, int port) {
  if (port == kMaxPort)
    variables.fail(fmt::format("{} leaves no port above it for the rendezvous, set SYNCBN_PORT", name));
  return port + 1;
}

void set_rendezvous(LaunchVariables& variables, LaunchEnv& env, const char* host_name,
                    const char* port_name) {
  const auto host = variables.text(host_name);
  const auto own_port = variables.port("SYNCBN_PORT");
  const auto launcher_port = variables.port(port_name);
  if (!needs_rendezvous(env)) return;
  env.world.host = variables.require(host, host_name);
  if (!own_port) variables.require(launcher_port, port_name);
  variables.check_complete();
  env.world.port = own_port ? *own_port : port_above(variables, port_name, *launcher_port);
  env.world.port_setting = own_port ? "SYNCBN_PORT" : fmt::format("{} + 1, or SYNCBN_PORT", port_name);
  env.world.serve = env.world.rank ? served_by_rank_0(*env.world.rank) : Serve::if_port_is_free;
}

}  // namespace syncbn::environment
