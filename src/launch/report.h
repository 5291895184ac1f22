// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/membership.h"
#include "launch/node_workers.h"
#include "launch/plan.h"

/// Reports on the end of a job. `location` is the node in messages: " on node 1 (node1, 10.0.0.2)", or "" if
/// there is only one node.
namespace syncbn::launch {

/// With the end of the failed worker's log, unless its rank is in `shown`: the console has the whole output
/// then.
JobEnd end_by_failure(const Failure& first, const std::vector<WorkerPlan>& workers, const JobPlan& plan,
                      const std::string& location, const std::vector<int>& shown);
JobEnd end_by_signal(int signal, const std::string& location);
JobEnd end_by_missing_workers(const std::vector<int>& missing, const JobPlan& plan,
                              const std::string& location);
/// Some nodes have not arrived in time.
JobEnd end_by_missing_nodes(const Membership& membership, const JobPlan& plan);
/// The launcher that serves the store could not be reached because of `why`. `why_not_serving` is why this
/// launcher does not serve the store. `in_time`: --cluster_time_out is not over.
JobEnd end_by_unreachable_store(const std::string& why, const std::string& why_not_serving,
                                const JobPlan& plan, bool in_time);
/// The connection to the launcher that serves the store is lost because of `why`.
JobEnd end_by_lost_store(const Membership& membership, const std::string& why);

/// Report on failures other than the one that ended the job; "" if there are none. `shown` as above.
std::string describe_later(const std::vector<Failure>& failures, const std::vector<WorkerPlan>& workers,
                           const std::vector<int>& shown);

}  // namespace syncbn::launch
