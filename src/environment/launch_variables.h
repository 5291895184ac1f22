// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "environment/launch_env.h"

namespace syncbn::environment {

/// The variables of one launcher. Remembers every variable that was looked up, for the message of an error.
/// All functions that read a variable return none if it is not set, and throw a GroupError if its value is
/// wrong.
class LaunchVariables {
 public:
  /// `launcher` is the launcher's name in messages.
  LaunchVariables(const char* launcher, const Getenv& getenv) : launcher_(launcher), getenv_(getenv) {}

  std::optional<std::string> text(const char* name);
  std::optional<int> number(const char* name, int low, int high, const char* allowed);
  std::optional<int> size(const char* name);
  std::optional<int> rank(const char* name);
  std::optional<int> port(const char* name);
  std::optional<std::uint64_t> id(const char* name);

  /// The value. If there is none, notes that the variable `name` is missing and returns a default value.
  template <class Value>
  Value require(const std::optional<Value>& value, const char* name) {
    if (!value) note_missing(name);
    return value.value_or(Value{});
  }
  /// @throws GroupError with the names of all missing variables
  void check_complete() const;

  [[noreturn]] void fail(const std::string& reason) const;

 private:
  void note_missing(const char* name);

  const char* launcher_;
  const Getenv& getenv_;
  std::string found_;
  std::string missing_;
};

// The functions below check values against each other and store them.

void set_rank(LaunchVariables& variables, LaunchEnv& env, std::optional<int> rank, int size);
void set_local(LaunchVariables& variables, LaunchEnv& env, std::optional<int> rank, std::optional<int> size);
/// Sets where the ranks meet, from the launcher's variables for host and port and from SYNCBN_PORT.
void set_rendezvous(LaunchVariables& variables, LaunchEnv& env, const char* host_name, const char* port_name);
/// True if the ranks meet at a store for which the environment must have an address.
bool needs_rendezvous(const LaunchEnv& env);
/// The port above the launcher's own port `port`, which belongs to the framework for which the launcher was
/// made.
int port_above(LaunchVariables& variables, const char* name, int port);

}  // namespace syncbn::environment
