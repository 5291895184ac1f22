// SPDX-License-Identifier: Apache-2.0
#include "network.h"

#include <fmt/core.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>

namespace syncbn::launch {
namespace {

class NotPermitted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

Strings enter(const Job& holder) {
  return {"/usr/bin/env", "nsenter", fmt::format("--target={}", holder.pid()), "--net", "--uts", "--mount"};
}

std::string own_address(int node) { return fmt::format("10.1.0.{}", node + 1); }

}  // namespace

Network::Network(int nodes, const std::filesystem::path& folder) : folder_(folder) {
  std::filesystem::create_directory(folder_);
  try {
    if (std::getenv("SYNCBN_TEST_LOOPBACK") != nullptr) throw NotPermitted("SYNCBN_TEST_LOOPBACK is set");
    std::ofstream hosts(folder_ / "hosts");
    hosts << "127.0.0.1 localhost\n";
    for (int i = 0; i < nodes; ++i) hosts << fmt::format("{} node{}\n", own_address(i), i);
    hosts.close();
    switch_ = keep_namespaces("switch");
    std::string plugs = "link add name switch type bridge\nlink set dev switch up\n";
    std::vector<std::unique_ptr<Job>> made;
    for (int i = 0; i < nodes; ++i) {
      made.push_back(keep_namespaces(fmt::format("node{}", i)));
      plugs += fmt::format(
          "link add name port{0} type veth peer name cable netns {1}\n"
          "link set dev port{0} master switch\nlink set dev port{0} up\n",
          i, made.back()->pid());
    }
    configure(*switch_, plugs);
    for (int i = 0; i < nodes; ++i)
      configure(*made[static_cast<std::size_t>(i)],
                fmt::format("link set dev lo up\naddress add {}/24 dev cable\nlink set dev cable up\n",
                            own_address(i)));
    nodes_ = std::move(made);
    std::cout << fmt::format("{} network namespaces on a switch, from {} on\n", nodes, address(0));
  } catch (const NotPermitted& error) {
    switch_ = nullptr;
    std::cout << fmt::format("no network namespaces ({}): {} nodes at 127.0.0.1\n", error.what(), nodes);
  }
}

// They live as long as a process in them.
std::unique_ptr<Job> Network::keep_namespaces(const std::string& name) {
  const auto place = folder_ / name;
  std::filesystem::create_directory(place);
  auto holder = std::make_unique<Job>(
      Strings{"/usr/bin/env", "unshare", "--net", "--uts", "--mount", "sh", "-c",
              fmt::format("echo {} > /proc/sys/kernel/hostname && mount --bind {}/hosts /etc/hosts && "
                          "echo ready && exec setpriv --pdeathsig KILL sleep 1000",
                          name, folder_.string())},
      Variables{}, place);
  const auto ready = [&] { return holder->out() == "ready\n"; };
  if (!wait_until([&] { return ready() || process_state(holder->pid()) == 'Z'; }) || !ready())
    throw NotPermitted(holder->err());
  return holder;
}

void Network::configure(const Job& where, const std::string& commands) const {
  std::ofstream(folder_ / "ip") << commands;
  const auto place = folder_ / "configure";
  std::filesystem::create_directory(place);
  Strings command = enter(where);
  command.insert(command.end(), {"ip", "-batch", (folder_ / "ip").string()});
  const char* path = std::getenv("PATH");
  Job ip(command, {{"PATH", fmt::format("{}:/usr/sbin:/sbin", path == nullptr ? "/usr/bin:/bin" : path)}},
         place);
  if (ip.wait() != 0) throw NotPermitted(ip.err());
}

Strings Network::on(int node) const {
  return separate() ? enter(*nodes_.at(static_cast<std::size_t>(node))) : Strings{"/usr/bin/env"};
}

std::string Network::address(int node) const { return separate() ? own_address(node) : "127.0.0.1"; }

std::string Network::host(int node) const { return separate() ? fmt::format("node{}", node) : "localhost"; }

void Network::cut_off(int node) const {
  configure(*switch_, fmt::format("link set dev port{} down\n", node));
}

}  // namespace syncbn::launch
