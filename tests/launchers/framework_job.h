// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "job.h"

/// Jobs with the real PyTorch and MindSpore, out of the virtual environment.
namespace syncbn::launchers {

using launch::Job;
using launch::Strings;
using launch::Variables;

/// `parts` one after the other.
Strings joined(std::initializer_list<Strings> parts);
/// Two ports in a row on 127.0.0.1 that nothing listens on, for the launcher and the rendezvous: the lower
/// one.
int free_ports_in_a_row();

class FrameworkTest : public launch::JobTest {
 protected:
  void SetUp() override;
  /// Starts a command of the virtual environment as if it were active.
  Job& run(const std::string& program, const Strings& arguments, const std::string& name = ".",
           const Variables& environment = {});
  /// `environment` with the PATH of the virtual environment.
  static Variables with_venv(Variables environment);
};

/// What a worker prints at the end of task "sums".
std::string sums_line(int rank, int size, int local_rank, int local_size);

}  // namespace syncbn::launchers
