// SPDX-License-Identifier: Apache-2.0
#include "rank_processes.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <thread>

#include "engines/rank_locks.h"
#include "syncbn/error.h"
#include "syncbn/group.h"

namespace syncbn::testing {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{60};  // for what takes well under one on an idle machine

// A file rather than a pipe: a process that the rank forked may keep its end of a pipe open.
std::string read_report(int file) {
  std::string text(1024, '\0');
  const ssize_t size = pread(file, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  return text;
}

}  // namespace

std::string outcome_of(const std::function<std::string()>& body) {
  try {
    return body();
  } catch (const PeerError& error) {
    return fmt::format("PeerError: {}", error.what());
  } catch (const TimeoutError& error) {
    return fmt::format("TimeoutError: {}", error.what());
  } catch (const std::exception& error) {
    return fmt::format("exception: {}", error.what());
  } catch (const Interrupted&) {
    return "Interrupted";
  }
}

RankProcesses::RankProcesses(int size, const Body& body) {
  for (int rank = 0; rank < size; ++rank) {
    const int report = memfd_create("report", MFD_CLOEXEC);
    if (report < 0) throw std::runtime_error("memfd_create");
    const pid_t pid = fork();
    if (pid < 0) throw std::runtime_error("fork");
    if (pid == 0) {
      const std::string text = outcome_of([&] { return body(rank); });
      if (write(report, text.data(), text.size()) < 0) _exit(1);
      _exit(0);  // no destructors of the parent's objects
    }
    processes_.push_back({pid, report});
  }
}

RankProcesses::~RankProcesses() {
  for (const Process& process : processes_) {
    close(process.report);
    if (process.pid < 0) continue;
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
  }
}

void RankProcesses::signal(int rank, int number) const {
  const pid_t pid = processes_[static_cast<std::size_t>(rank)].pid;
  if (pid <= 0) throw std::logic_error("a signal to a rank that has ended");  // kill(-1) ends all processes
  kill(pid, number);
}

std::string RankProcesses::outcome(int rank) {
  Process& process = processes_[static_cast<std::size_t>(rank)];
  const Deadline deadline = Clock::now() + kPatience;
  int status = 0;
  while (waitpid(process.pid, &status, WNOHANG) == 0) {
    if (Clock::now() >= deadline) return "still runs";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  process.pid = -1;
  return WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status)) : read_report(process.report);
}

WindowMemory::WindowMemory(const engines::WindowShape& shape)
    : shape_(shape), memory_(std::make_shared<engines::SharedMemory>(engines::WindowLayout::bytes(shape))) {}

std::unique_ptr<engines::SharedWindow> WindowMemory::attach(int rank) const {
  // The only descriptor that this process will close, so that the lock stays.
  auto memory = std::make_shared<engines::SharedMemory>(base::Fd(fcntl(memory_->file(), F_DUPFD_CLOEXEC, 0)),
                                                        memory_->bytes());
  const int file = memory->file();
  engines::lock_rank(file, rank);
  auto window = std::make_unique<engines::SharedWindow>(std::move(memory), shape_, rank);
  if (const std::string wrong = sum_once(*window, 0, 1, kPatience); !wrong.empty())
    throw std::logic_error(wrong);
  window->watch([file](int other) { return engines::is_rank_locked(file, other); });
  return window;
}

std::int64_t word_of(int rank, int round, std::size_t i) {
  std::uint64_t word =
      (static_cast<std::uint64_t>(rank) << 48) + (static_cast<std::uint64_t>(round) << 24) + i + 1;
  word *= 0x9e3779b97f4a7c15u;
  return static_cast<std::int64_t>(word ^ (word >> 29));
}

std::string sum_once(Communicator& window, int round, std::size_t words, std::chrono::milliseconds patience) {
  const auto message = window.buffer(words).first(words);
  for (std::size_t i = 0; i < words; ++i) message[i] = word_of(window.rank(), round, i);
  window.start(words);
  window.wait(Clock::now() + patience);
  for (std::size_t i = 0; i < words; ++i) {
    std::uint64_t expected = 0;
    for (int rank = 0; rank < window.size(); ++rank)
      expected += static_cast<std::uint64_t>(word_of(rank, round, i));
    if (message[i] != static_cast<std::int64_t>(expected))
      return fmt::format("wrong sum on rank {} in round {}: word {} of {} is {}, expected {}", window.rank(),
                         round, i, words, message[i], static_cast<std::int64_t>(expected));
  }
  return "";
}

}  // namespace syncbn::testing
