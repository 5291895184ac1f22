// SPDX-License-Identifier: Apache-2.0

// RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT given by hand, as Kubernetes' operators do: a service's
// address that no machine has, names that come late or never, and hosts that share a name.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "../engines/processes_child.h"

namespace syncbn::launchers {
namespace {

using processes::Child;
using processes::Variables;

class Addresses : public ::testing::Test {
 protected:
  Child& start(std::vector<std::string> prefix, int rank, const std::string& host,
               const char* timeout = "60") {
    prefix.insert(prefix.end(), {SYNCBN_WORKER, "sums"});
    return *workers_.emplace_back(std::make_unique<Child>(prefix, Variables{{"RANK", std::to_string(rank)},
                                                                            {"WORLD_SIZE", "2"},
                                                                            {"MASTER_ADDR", host},
                                                                            {"MASTER_PORT", "29500"},
                                                                            {"SYNCBN_PORT", port_},
                                                                            {"SYNCBN_TIMEOUT_S", timeout}}));
  }
  void expect_ends(const std::string& text) {
    for (const auto& worker : workers_) EXPECT_TRUE(worker->shows(text)) << text << " of " << all_output();
    for (const auto& worker : workers_) worker->close_input();
    for (const auto& worker : workers_) EXPECT_EQ(worker->wait(), "exit 0") << all_output();
  }
  std::string all_output() const {
    std::string text;
    for (const auto& worker : workers_)
      text += fmt::format("--- process {}\n{}", worker->pid(), worker->output());
    return text;
  }

  const std::string port_ = std::to_string(processes::free_ports(1)[0]);
  std::vector<std::unique_ptr<Child>> workers_;
};

TEST_F(Addresses, NameWithoutAnAddressIsAnErrorOnEveryRank) {
  for (const int rank : {0, 1}) start({}, rank, "no-such-host.invalid", "1");
  expect_ends("GroupError on rank -1 ... 'no-such-host.invalid' has no address");
}

// control: where rank 0 asks for the name once, it fails at once.
TEST_F(Addresses, NameMayComeLate) {
  if (geteuid() != 0) GTEST_SKIP() << "an /etc/hosts of its own needs a mount namespace, and that needs root";
  const std::filesystem::path hosts =
      std::filesystem::temp_directory_path() / fmt::format("syncbn_hosts_{}", getpid());
  std::ofstream(hosts) << "127.0.0.1 localhost\n";
  const std::string with_hosts = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
  for (const int rank : {0, 1})
    start({"unshare", "--mount", "sh", "-c", with_hosts, hosts.string()}, rank, "late-host.invalid");
  for (const auto& worker : workers_) EXPECT_TRUE(worker->shows("process ")) << all_output();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // for both to have asked in vain
  std::ofstream(hosts, std::ios::app) << "127.0.0.1 late-host.invalid\n";
  expect_ends("of 2, sums are right, local rank");
  std::filesystem::remove(hosts);
}

// Two network namespaces with a cable between them. Rank 0 is in one; the other has the service's address,
// and rank 1. Their host name is the same. control: where rank 0 listens on the service's address alone, it
// has none to listen on; with hosts told apart by their names alone, both ranks count on one host.
TEST_F(Addresses, ServiceAndHostsOfOneName) {
  if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  const auto run = [](const std::vector<std::string>& command) {
    Child child(command, {});
    ASSERT_EQ(child.wait(), "exit 0") << fmt::format("{}", fmt::join(command, " ")) << ": " << child.output();
  };
  const auto network = [](const Child& child) {
    return std::filesystem::read_symlink(fmt::format("/proc/{}/ns/net", child.pid()));
  };
  const std::vector<std::string> hold = {"unshare", "--net", "sh", "-c", "echo here; exec sleep 600"};
  Child pod(hold, {}), service(hold, {});
  for (Child* holder : {&pod, &service}) {
    ASSERT_TRUE(holder->shows("here")) << holder->output();
    ASSERT_NE(network(*holder), std::filesystem::read_symlink("/proc/self/ns/net"));
  }
  const auto inside = [](const Child& holder) {
    return std::vector<std::string>{"nsenter", fmt::format("--net=/proc/{}/ns/net", holder.pid())};
  };
  const auto run_inside = [&](const Child& holder, const std::vector<std::string>& command) {
    std::vector<std::string> all = inside(holder);
    all.insert(all.end(), command.begin(), command.end());
    run(all);
  };
  run({"ip", "link", "add", "cable0", "netns", std::to_string(pod.pid()), "type", "veth", "peer", "name",
       "cable1", "netns", std::to_string(service.pid())});
  run_inside(pod, {"ip", "address", "add", "10.77.0.1/24", "dev", "cable0"});
  run_inside(service, {"ip", "address", "add", "10.77.0.9/24", "dev", "cable1"});
  for (const auto& [holder, device] :
       {std::pair<Child*, const char*>{&pod, "cable0"}, {&service, "cable1"}}) {
    for (const char* name : {"lo", device}) run_inside(*holder, {"ip", "link", "set", name, "up"});
  }
  std::vector<std::string> forward = inside(service);
  forward.insert(forward.end(), {"python3", SYNCBN_FORWARD, "10.77.0.9", port_, "10.77.0.1"});
  Child forwarder(forward, {});
  ASSERT_TRUE(forwarder.shows("listening")) << forwarder.output();
  start(inside(pod), 0, "10.77.0.9");
  start(inside(service), 1, "10.77.0.9");
  expect_ends("of 2, sums are right, local rank 0 of 1\n");
}

}  // namespace
}  // namespace syncbn::launchers
