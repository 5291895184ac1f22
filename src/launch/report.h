#pragma once

#include <string>
#include <vector>

#include "launch/plan.h"

namespace syncbn::launch {

/// How a job ended.
struct Outcome {
  enum class Kind {
    all_succeeded,
    worker_failed,  ///< `failures`, the first one first.
    stopped,        ///< `signal` was sent to the launcher.
    not_joined,     ///< `missing` had not joined by --cluster_time_out.
  };
  struct Failure {
    int rank;
    int status;  ///< Of waitpid().
  };
  Kind kind = Kind::all_succeeded;
  std::vector<Failure> failures;
  int signal = 0;
  std::vector<int> missing;
};

int exit_code(const Outcome& outcome);
/// For people: lines that begin with "syncbn-run: ", empty where all went well.
std::string describe(const Outcome& outcome, const JobPlan& plan, const std::vector<WorkerPlan>& workers);

}  // namespace syncbn::launch
