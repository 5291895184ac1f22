// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "../engines/processes_child.h"

namespace syncbn::launchers {

/// A real Slurm of one node, for root: munged, slurmctld and slurmd in a folder of their own, with their own
/// key and ports. No system service is touched.
class SlurmCluster {
 public:
  /// Returns when the node takes jobs. @throws std::runtime_error with the daemons' output
  SlurmCluster();
  ~SlurmCluster();  ///< Ends the daemons, by their ids, and removes the folder.

  /// A command such as srun, with the cluster's configuration.
  std::unique_ptr<processes::Child> run(const std::vector<std::string>& command,
                                        processes::Variables variables = {}) const;
  const std::filesystem::path& folder() const { return folder_; }

  /// Ends the daemons. What processes still run that were started from this cluster, after a while.
  std::string left_after_stop();

 private:
  void write_configuration() const;
  void start(const std::vector<std::string>& command);
  std::string output() const;
  void stop();

  const std::filesystem::path folder_;
  std::vector<std::unique_ptr<processes::Child>> daemons_;
};

}  // namespace syncbn::launchers
