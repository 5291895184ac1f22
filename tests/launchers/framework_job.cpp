// SPDX-License-Identifier: Apache-2.0
#include "framework_job.h"

#include <fmt/core.h>

#include <cstdlib>
#include <filesystem>

namespace syncbn::launchers {

Strings joined(std::initializer_list<Strings> parts) {
  Strings all;
  for (const Strings& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

int free_ports_in_a_row() {
  int port = launch::free_port();
  for (int next = launch::free_port(); next != port + 1; next = launch::free_port()) port = next;
  return port;
}

void FrameworkTest::SetUp() {
  for (const char* program : {"torchrun", "msrun"}) {
    if (!std::filesystem::exists(fmt::format("{}/bin/{}", SYNCBN_VENV, program)))
      FAIL() << "no " << program << " in " << SYNCBN_VENV
             << "/bin: `make venv` makes the virtual environment, "
             << "-DSYNCBN_VENV=... names another one, and ctest -LE python leaves these tests out";
  }
}

Job& FrameworkTest::run(const std::string& program, const Strings& arguments, const std::string& name,
                        const Variables& environment) {
  return launch(joined({{fmt::format("{}/bin/{}", SYNCBN_VENV, program)}, arguments}), with_venv(environment),
                name);
}

Variables FrameworkTest::with_venv(Variables environment) {
  const char* path = std::getenv("PATH");
  environment["PATH"] = fmt::format("{}/bin:{}", SYNCBN_VENV, path == nullptr ? "" : path);
  return environment;
}

std::string sums_line(int rank, int size, int local_rank, int local_size) {
  return fmt::format("rank {}: of {}, sums are right, local rank {} of {}\n", rank, size, local_rank,
                     local_size);
}

}  // namespace syncbn::launchers
