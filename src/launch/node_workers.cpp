// SPDX-License-Identifier: Apache-2.0
#include "launch/node_workers.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/throw_errno.h"
#include "launch/process.h"

namespace syncbn::launch {
namespace {

void check(bool good, const char* call) {
  if (!good) base::throw_errno(call);
}

// A descriptor that is readable when the process has ended. glibc 2.36 declares pidfd_open without C linkage.
base::Fd open_pidfd(pid_t pid) {
  base::Fd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  check(fd.get() >= 0, "pidfd_open");
  return fd;
}

}  // namespace

NodeWorkers::NodeWorkers() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  check(epoll_.get() >= 0, "epoll_create1");
}

void NodeWorkers::start(const Command& command, std::vector<WorkerPlan> plans, const sigset_t& signal_mask) {
  plans_ = std::move(plans);
  for (std::size_t i = 0; i < plans_.size(); ++i) {
    const pid_t pid = start_worker(command, plans_[i], signal_mask);
    index_of_[pid] = i;
    const Process& process = processes_.emplace_back(Process{pid, open_pidfd(pid), 0});
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = i;
    check(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, process.pidfd.get(), &event) == 0, "epoll_ctl");
    if (plans_[i].rank == kSchedulerRank) continue;
    ++started_;
    ++running_;
  }
}

void NodeWorkers::reap() {
  // waitpid() does not tell the order in which processes ended. epoll does: the pidfd that became readable
  // first comes first.
  std::vector<epoll_event> events(processes_.size() + 1);
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  check(count >= 0 || errno == EINTR, "epoll_wait");
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
    if (const auto found = index_of_.find(pid); found != index_of_.end()) {
      processes_[found->second].status = status;
      index_of_.erase(found);
    }
  has_children_ = pid == 0;
  for (int i = 0; i < count; ++i) record_end(events[static_cast<std::size_t>(i)].data.u64);
}

void NodeWorkers::record_end(std::size_t index) {
  Process& process = processes_[index];
  // waitpid(-1) skips a process that a debugger traces.
  if (index_of_.erase(process.pid) != 0) waitpid(process.pid, &process.status, 0);
  // Closing the descriptor is not enough: a worker that was just forked holds a copy until it execs, and the
  // copy keeps the entry in epoll.
  check(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, process.pidfd.get(), nullptr) == 0, "epoll_ctl");
  process.pidfd = base::Fd();
  const int rank = plans_[index].rank;
  if (rank != kSchedulerRank) --running_;
  if (process.status != 0) failures_.push_back({rank, process.status});
}

std::vector<int> NodeWorkers::running_ranks() const {
  std::vector<int> ranks;
  for (std::size_t i = 0; i < processes_.size(); ++i)
    if (processes_[i].pidfd.get() >= 0 && plans_[i].rank != kSchedulerRank) ranks.push_back(plans_[i].rank);
  return ranks;
}

std::vector<pid_t> NodeWorkers::orphans() const {
  std::vector<pid_t> result;
  for (const pid_t child : children())
    if (!index_of_.contains(child)) result.push_back(child);
  return result;
}

void NodeWorkers::terminate() {
  for (const pid_t child : children())
    if (!index_of_.contains(child) || kill(-child, SIGTERM) != 0) kill(child, SIGTERM);
}

}  // namespace syncbn::launch
