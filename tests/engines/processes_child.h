// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

/// Real processes for tests. Every wait has a deadline, and a process ends with its object.
namespace syncbn::processes {

inline constexpr std::chrono::seconds kPatience{60};  // for what takes well under one on an idle machine

using Variables = std::map<std::string, std::string>;

/// For tests of a call's deadline. What comes before must be done in that time too, on a busy machine;
/// starting takes longest and has its own.
inline const Variables kShortCalls = {{"SYNCBN_TIMEOUT_S", "5"}, {"MS_TOPO_TIMEOUT", "60"}};

class Child {
 public:
  /// `variables` come on top of this process's environment without any launcher's variables. TEST_OUTPUT
  /// names the file of output(), for processes whose launcher may lose some of theirs.
  Child(const std::vector<std::string>& command, const Variables& variables);
  ~Child();  ///< Ends it, by its id, where it still runs.
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  void close_input();  ///< The workers take it for the order to go on.
  /// Waits for its end: "exit 3", "signal 9", or "still runs" after kPatience.
  std::string wait();
  bool has_ended();
  /// Waits until its output tells `fact` (testing::tells). False: it ended without, or not within kPatience.
  bool shows(const std::string& fact);
  std::string output() const;  ///< Standard output and error so far.

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  int input_ = -1;
  std::string end_;
};

/// Ports on 127.0.0.1 that nothing listens on, different ones.
std::vector<int> free_ports(std::size_t count);
/// Waits until a process that is not ours to wait for is gone, or a zombie that its new parent has not
/// collected yet.
bool is_gone(pid_t pid);

}  // namespace syncbn::processes
