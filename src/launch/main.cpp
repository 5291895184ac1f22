// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "launch/check_rank_table.h"
#include "launch/exit_codes.h"
#include "launch/options.h"
#include "launch/plan.h"
#include "launch/run_job.h"

int main(int argc, char** argv) {
  using namespace syncbn::launch;
  // The workers must not inherit the caller's other descriptors, and a job in the background must not keep
  // them open.
  close_range(STDERR_FILENO + 1, UINT_MAX, 0);
  try {
    const std::optional<Options> options = parse_options(argc, argv);
    if (!options) return kSuccess;
    if (options->check_rank_table) {
      fmt::print("{}", describe_rank_table(*options->check_rank_table));
      return kSuccess;
    }
    JobPlan plan = make_plan(*options);
    std::filesystem::create_directories(plan.log_dir);
    const syncbn::base::Fd reservation = reserve_logs(plan);
    return options->join ? run_in_foreground(plan, options->tail_worker_log) : run_in_background(plan);
  } catch (const UsageError& error) {
    fmt::print(stderr, "syncbn-run: {}; see syncbn-run --help\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "syncbn-run: {}\n", error.what());
    return kCannotStart;
  }
}
