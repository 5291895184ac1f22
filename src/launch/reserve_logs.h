// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/file_descriptor.h"
#include "launch/plan.h"

namespace syncbn::launch {

/// Reserves the names of the logs of a job on one node. If a running job has them, another log_name is
/// chosen, with a note in the plan. The reservation lasts until this process and its forks have closed the
/// descriptor.
base::Fd reserve_logs(JobPlan& plan);

}  // namespace syncbn::launch
