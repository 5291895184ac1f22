// SPDX-License-Identifier: Apache-2.0
#include "launch/plan.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>

#include <cerrno>

namespace syncbn::launch {

base::Fd reserve_logs(JobPlan& plan) {
  if (plan.several_nodes()) return {};  // the ranks are not known yet, and each node has its own disk
  const std::string log_name = plan.log_name;
  const std::filesystem::path job_log = plan.job_log;
  for (int job = 1;; ++job) {
    if (job > 1) {
      plan.log_name = fmt::format("{}-{}", log_name, job);
      plan.job_log = job_log.parent_path() / fmt::format("{}-{}.log", job_log.stem().string(), job);
    }
    base::Fd log(
        open(worker_log(plan, local_ranks(plan, {}).front()).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    // A log that can't be opened, or a file system without locks: the start of the workers says what is
    // wrong.
    if (log.get() >= 0 && flock(log.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) continue;
    if (job > 1)
      plan.notes.push_back(
          fmt::format("a running job writes the logs {}_<rank>.log in {}; this one writes {}_<rank>.log",
                      log_name, plan.log_dir.string(), plan.log_name));
    return log;
  }
}

}  // namespace syncbn::launch
