// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

/// Real jobs of the real syncbn-run.
namespace syncbn::launch {

using Strings = std::vector<std::string>;
using Variables = std::map<std::string, std::string>;

inline constexpr std::chrono::seconds kPatience{120};  // for what takes seconds at most on an idle machine

/// Looks every few milliseconds. False: not so within kPatience.
bool wait_until(const std::function<bool()>& condition);

std::string read_file(const std::filesystem::path& file);
Strings lines_of(const std::string& text);
bool contains(const std::string& text, const std::string& fact);  ///< testing::tells
/// A port on 127.0.0.1 that nothing listens on, below the range from which the system picks source ports.
int free_port();
/// 'Z' of a process that has ended and was not waited for, 0 of one that is gone.
char process_state(pid_t pid);

/// The test's own environment with `variables` in place of what it says of them, as NAME=value.
Strings environment_with(const Variables& variables);
/// As execve() wants it; points into `texts`.
std::vector<char*> pointers(Strings& texts);

/// One run of syncbn-run with its output in files of `folder`.
class Job {
 public:
  Job(const Strings& command, const Variables& environment, const std::filesystem::path& folder);
  ~Job();  ///< Ends it.
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  /// Waits for its end: the exit code, or -N where it was killed by signal N, or -1000 after kPatience.
  int wait();
  /// Waits until the console shows `text`.
  bool shows(const std::string& text) const;
  std::string out() const { return read_file(folder_ / "out"); }
  std::string err() const { return read_file(folder_ / "err"); }

 private:
  std::filesystem::path folder_;
  pid_t pid_;
};

/// A folder and a mark in the environment of its own for each test. At the end no process with that mark is
/// left.
class JobTest : public ::testing::Test {
 protected:
  JobTest();
  ~JobTest() override;
  void TearDown() override;

  /// Options of a job of `workers` on a free port, with its logs in log_dir() and its output on the console.
  Strings options(int workers) const;
  /// Starts any launcher, its output in files of folder() / `name`.
  Job& launch(const Strings& command, const Variables& environment, const std::string& name = ".");
  /// Starts syncbn-run with `options` and the task.
  Job& start(const Strings& options, const Strings& task, const Variables& environment = {});
  /// The task is a shell script; $RANK tells the workers apart, $DIR is folder().
  Job& start_shell(const Strings& options, const std::string& script, const Variables& environment = {});

  /// What start() executes, and with which variables.
  static Strings command(const Strings& options, const Strings& task);
  Variables marked(const Variables& environment) const;

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path log_dir() const { return folder_ / "log"; }
  std::string log(int rank) const {
    return read_file(log_dir() / ("worker_" + std::to_string(rank) + ".log"));
  }
  std::filesystem::path write(const std::string& name, const std::string& text) const;
  bool appears(const std::string& name) const;    ///< Waits for a file in folder().
  pid_t read_pid(const std::string& name) const;  ///< Waits for a file in folder() that holds an id.
  std::vector<pid_t> processes() const;           ///< Those with this test's mark that run.
  bool all_gone() const;                          ///< Waits until there are none.

 private:
  std::filesystem::path folder_;
  std::string mark_;
  std::vector<std::unique_ptr<Job>> jobs_;
};

}  // namespace syncbn::launch
