// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "job.h"

namespace syncbn::launch {

/// Nodes with an address, a host name and a loopback device of their own each, on one switch: network
/// namespaces that end with this object and that the machine's own network does not see. Where these are not
/// permitted, or SYNCBN_TEST_LOOPBACK is set, all nodes are this machine at 127.0.0.1; says which on standard
/// output.
class Network {
 public:
  /// `folder` is made, for files of its own.
  Network(int nodes, const std::filesystem::path& folder);

  bool separate() const { return !nodes_.empty(); }
  /// What stands before a command so that it runs on that node.
  Strings on(int node) const;
  std::string address(int node) const;
  std::string host(int node) const;
  /// Takes the cable out. Only where the nodes are separate.
  void cut_off(int node) const;

 private:
  std::unique_ptr<Job> keep_namespaces(const std::string& name);
  void configure(const Job& where, const std::string& commands) const;

  std::filesystem::path folder_;
  std::unique_ptr<Job> switch_;
  std::vector<std::unique_ptr<Job>> nodes_;
};

}  // namespace syncbn::launch
