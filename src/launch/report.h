#pragma once

#include <string>
#include <vector>

#include "launch/membership.h"
#include "launch/plan.h"

/// What the launcher tells people of a job's end. `place` says where: " on node 1 (node1, 10.0.0.2)", or ""
/// where there is one node.
namespace syncbn::launch {

/// A worker, or the scheduler, that has ended badly.
struct Failure {
  int rank;
  int status;  ///< Of waitpid().
};

End failed(const Failure& first, const std::vector<WorkerPlan>& workers, const std::string& place);
End stopped(int signal, const std::string& place);
End not_joined(const std::vector<int>& missing, const JobPlan& plan, const std::string& place);
/// Not all nodes have come in time.
End not_met(const Roll& roll, const JobPlan& plan);
/// No launcher that serves the store could be reached, for the reason `why`.
End not_reached(const std::string& why, const std::string& why_not_served, const JobPlan& plan, bool in_time);
/// The launcher that serves the store is gone, for the reason `why`.
End lost(const Roll& roll, const std::string& why);

/// Of this node's workers that failed after the one that ended the job; "" where there are none.
std::string describe_later(const std::vector<Failure>& failures, const std::vector<WorkerPlan>& workers);

}  // namespace syncbn::launch
