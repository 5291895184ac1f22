// SPDX-License-Identifier: Apache-2.0
#include "slurm_cluster.h"

#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <thread>

namespace syncbn::launchers {
namespace {

using Clock = std::chrono::steady_clock;
using processes::Child;

std::filesystem::path make_folder() {
  std::string name = (std::filesystem::temp_directory_path() / "syncbn_slurm_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
  std::filesystem::permissions(name, std::filesystem::perms(0755));  // munge's socket is everybody's
  return name;
}

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

std::string contents(const std::filesystem::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

SlurmCluster::SlurmCluster() : folder_(make_folder()) {
  const auto path = [&](const char* name) { return (folder_ / name).string(); };
  write_configuration();
  start({"munged", "--foreground", "--force", "--key-file=" + path("munge.key"),
         "--socket=" + path("munge.socket"), "--pid-file=" + path("munged.pid"),
         "--log-file=" + path("munged.log"), "--seed-file=" + path("munge.seed")});
  const auto deadline = Clock::now() + processes::kPatience;
  while (!std::filesystem::exists(folder_ / "munge.socket") && Clock::now() < deadline) pause();
  start({"slurmctld", "-D", "-f", path("slurm.conf")});
  start({"slurmd", "-D", "-f", path("slurm.conf")});
  while (Clock::now() < deadline) {
    const auto state = run({"sinfo", "--noheader", "--format=%T"});
    state->wait();
    if (state->output() == "idle\n") return;
    pause();
  }
  const std::string text = output();
  stop();
  throw std::runtime_error("no Slurm by the deadline: " + text);
}

SlurmCluster::~SlurmCluster() {
  stop();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::unique_ptr<Child> SlurmCluster::run(const std::vector<std::string>& command,
                                         processes::Variables variables) const {
  variables["SLURM_CONF"] = (folder_ / "slurm.conf").string();
  auto child = std::make_unique<Child>(command, variables);
  child->close_input();
  return child;
}

std::string SlurmCluster::left_after_stop() {
  stop();
  const auto deadline = Clock::now() + processes::kPatience;
  for (;;) {
    std::string left;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string id = entry.path().filename().string();
      if (id.find_first_not_of("0123456789") != std::string::npos || id == std::to_string(getpid())) continue;
      const std::string name = contents(entry.path() / "cmdline");
      if ((contents(entry.path() / "environ") + name).find(folder_.string()) != std::string::npos)
        left += fmt::format("process {}: {}\n", id, name.c_str());
    }
    if (left.empty() || Clock::now() >= deadline) return left;
    pause();
  }
}

// The ports of steps are made of the job's number, which starts anywhere: two clusters may be on one machine.
void SlurmCluster::write_configuration() const {
  std::random_device random;
  std::ofstream key(folder_ / "munge.key", std::ios::binary);
  for (int i = 0; i < 256; ++i) key << static_cast<unsigned>(random());
  key.close();
  std::filesystem::permissions(folder_ / "munge.key", std::filesystem::perms(0600));
  for (const char* name : {"state", "spool"}) std::filesystem::create_directory(folder_ / name);
  const std::vector<int> ports = processes::free_ports(2);
  std::ofstream(folder_ / "slurm.conf") << fmt::format(
      "ClusterName=test\n"
      "SlurmctldHost=localhost\n"
      "SlurmUser=root\n"
      "AuthType=auth/munge\n"
      "AuthInfo=socket={0}/munge.socket\n"
      "SlurmctldPort={1}\n"
      "SlurmdPort={2}\n"
      "StateSaveLocation={0}/state\n"
      "SlurmdSpoolDir={0}/spool\n"
      "SlurmctldPidFile={0}/slurmctld.pid\n"
      "SlurmdPidFile={0}/slurmd.pid\n"
      "SlurmctldLogFile={0}/slurmctld.log\n"
      "SlurmdLogFile={0}/slurmd.log\n"
      "ProctrackType=proctrack/linuxproc\n"
      "TaskPlugin=task/none\n"
      "JobAcctGatherType=jobacct_gather/none\n"
      "AccountingStorageType=accounting_storage/none\n"
      "MpiDefault=none\n"
      "FirstJobId={3}\n"
      "SlurmdParameters=config_overrides\n"  // eight tasks, on however many cores
      "NodeName=localhost CPUs=8\n"
      "PartitionName=all Nodes=localhost Default=YES\n",
      folder_.string(), ports[0], ports[1], 1 + random() % 10000);
}

void SlurmCluster::start(const std::vector<std::string>& command) { daemons_.push_back(run(command)); }

std::string SlurmCluster::output() const {
  std::string text;
  for (const auto& daemon : daemons_) text += daemon->output();
  for (const char* log : {"munged.log", "slurmctld.log", "slurmd.log"}) text += contents(folder_ / log);
  return text;
}

void SlurmCluster::stop() {
  while (!daemons_.empty()) {  // munged last, for the others sign their last words
    daemons_.back()->signal(SIGTERM);
    daemons_.back()->wait();
    daemons_.pop_back();
  }
}

}  // namespace syncbn::launchers
