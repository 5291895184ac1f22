// SPDX-License-Identifier: Apache-2.0
#include "launch/membership.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <set>

#include "environment/parse.h"
#include "launch/exit_codes.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

// An event is its name and its fields, each with a line end. The last field of an end may hold any bytes and
// has none.
constexpr std::string_view kArrival = "arrived";
constexpr std::string_view kDone = "done";
constexpr std::string_view kEnd = "end";

std::string take_field(std::string_view& event) {
  const std::size_t end = event.find('\n');
  if (end == std::string_view::npos)
    throw GroupError(fmt::format("event of a launcher: '{}' is cut off", event));
  std::string field(event.substr(0, end));
  event.remove_prefix(end + 1);
  return field;
}

int take_int(std::string_view& event) {
  const std::string field = take_field(event);
  const std::optional<int> value = environment::parse<int>(field);
  if (!value) throw GroupError(fmt::format("event of a launcher: '{}', expected an integer", field));
  return *value;
}

Node take_node(std::string_view& event) {
  Node node;
  node.id = take_field(event);
  node.worker_num = take_int(event);
  node.local_worker_num = take_int(event);
  node.max_restarts = take_int(event);
  node.node_rank = take_int(event);
  node.rank_table = take_field(event);
  node.server = take_field(event);
  node.serves_store = take_int(event) != 0;
  node.pid = take_int(event);
  node.host = take_field(event);
  node.address = take_field(event);
  return node;
}

}  // namespace

std::string arrival_event(const Node& node) {
  return fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n", kArrival, node.id, node.worker_num,
                     node.local_worker_num, node.max_restarts, node.node_rank, node.rank_table, node.server,
                     node.serves_store ? 1 : 0, node.pid, node.host, node.address);
}

std::string done_event(const Node& node) { return fmt::format("{}\n{}\n", kDone, node.id); }

std::string end_event(const Node& node, const JobEnd& end) {
  return fmt::format("{}\n{}\n{}\n{}\n{}", kEnd, node.id, end.code, end.restartable ? 1 : 0, end.report);
}

std::string describe(const Node& node) {
  return fmt::format("launcher {} on {} ({})", node.pid, node.host, node.address);
}

void Membership::apply(std::string_view event) {
  const std::string name = take_field(event);
  if (name == kArrival) return add(take_node(event));
  const std::string id = take_field(event);
  const bool known =
      std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.id == id; });
  if (end_ || !known) return;                             // an event of a launcher that arrived too late
  if (complete_ && own_index() == nodes_.size()) return;  // the job runs without this launcher
  if (name == kDone) {
    if (++done_ == nodes_.size()) end_ = JobEnd{};
  } else if (name == kEnd) {
    const int code = take_int(event);
    const bool restartable = take_int(event) != 0;
    end_ = JobEnd{code, std::string(event), restartable};
    own_end_ = id == id_;
  } else {
    throw GroupError(
        fmt::format("event of a launcher: '{}', expected {}, {} or {}", name, kArrival, kDone, kEnd));
  }
}

void Membership::add(const Node& node) {
  if (end_) return;
  if (complete_) {
    if (node.id == id_)
      end_ = JobEnd{
          kCannotStart,
          fmt::format("syncbn-run: can't run the job: it already has its --worker_num={} workers ({}); "
                      "the {} of this launcher are too many\n",
                      nodes_[0].worker_num, describe_nodes(), node.local_worker_num)};
    return;
  }
  nodes_.push_back(node);
  if (const std::string why = disagreement(); !why.empty()) {
    end_ = JobEnd{kCannotStart, fmt::format("syncbn-run: can't run the job: {}\n", why)};
    disagrees_ = true;
  } else if (workers_arrived() == node.worker_num) {
    complete_ = true;
    const auto before = [](const Node& a, const Node& b) {
      return a.node_rank != b.node_rank ? a.node_rank < b.node_rank : a.serves_store && !b.serves_store;
    };
    std::stable_sort(nodes_.begin(), nodes_.end(), before);
  }
}

// Describes a disagreement between the newest node and the nodes before it; "" if they agree.
std::string Membership::disagreement() const {
  const Node& first = nodes_.front();
  const Node& newest = nodes_.back();
  if (newest.worker_num != first.worker_num)
    return fmt::format("--worker_num is {} for {} and {} for {}; allowed: the same on every node",
                       first.worker_num, describe(first), newest.worker_num, describe(newest));
  if (newest.max_restarts != first.max_restarts)
    return fmt::format("--max_restarts is {} for {} and {} for {}; allowed: the same on every node",
                       first.max_restarts, describe(first), newest.max_restarts, describe(newest));
  if (newest.rank_table != first.rank_table)
    return fmt::format("--rank_table_file of {} and of {} differ; allowed: the same table on every node",
                       describe(first), describe(newest));
  const auto same_server = std::find_if(nodes_.begin(), nodes_.end() - 1, [&](const Node& node) {
    return !node.server.empty() && node.server == newest.server;
  });
  if (same_server != nodes_.end() - 1)
    return fmt::format(
        "--rank_table_file: {} and {} are both its server '{}'; allowed: one launcher a server",
        describe(*same_server), describe(newest), newest.server);
  if ((newest.node_rank < 0) != (first.node_rank < 0))
    return fmt::format("--node_rank is {} for {} and {} for {}; allowed: given on every node, or on none",
                       first.node_rank, describe(first), newest.node_rank, describe(newest));
  if (workers_arrived() > newest.worker_num)
    return fmt::format("--local_worker_num adds up to {}, more than --worker_num={}: {}", workers_arrived(),
                       newest.worker_num, describe_nodes());
  if (newest.node_rank < 0) return "";
  std::set<int> given;
  for (const Node& node : nodes_) {
    if (!given.insert(node.node_rank).second) {
      const auto same = std::find_if(nodes_.begin(), nodes_.end(),
                                     [&](const Node& each) { return each.node_rank == node.node_rank; });
      return fmt::format("--node_rank is {} for {} and for {}; allowed: each number once", node.node_rank,
                         describe(*same), describe(node));
    }
  }
  const int count = static_cast<int>(nodes_.size());
  if (workers_arrived() < newest.worker_num || *given.rbegin() < count) return "";
  int missing = 0;
  while (given.contains(missing)) ++missing;
  const auto highest = std::max_element(
      nodes_.begin(), nodes_.end(), [](const Node& a, const Node& b) { return a.node_rank < b.node_rank; });
  return fmt::format("--node_rank {} is missing, and {} has --node_rank={}; allowed for {} nodes: 0 to {}",
                     missing, describe(*highest), highest->node_rank, count, count - 1);
}

int Membership::workers_arrived() const {
  int workers = 0;
  for (const Node& node : nodes_) workers += node.local_worker_num;
  return workers;
}

std::size_t Membership::own_index() const {
  const auto own =
      std::find_if(nodes_.begin(), nodes_.end(), [this](const Node& node) { return node.id == id_; });
  return static_cast<std::size_t>(own - nodes_.begin());
}

Placement Membership::placement() const {
  Placement placement;
  placement.node = static_cast<int>(own_index());
  placement.node_count = static_cast<int>(nodes_.size());
  for (std::size_t i = 0; i < own_index(); ++i) placement.first_rank += nodes_[i].local_worker_num;
  return placement;
}

std::string Membership::location() const {
  if (nodes_.size() == 1) return "";
  const Node& self = nodes_[own_index()];
  return fmt::format(" on node {} ({}, {})", own_index(), self.host, self.address);
}

std::string Membership::describe_nodes() const {
  std::string text;
  for (const Node& node : nodes_)
    text += fmt::format("{}{} by {}", text.empty() ? "" : ", ", node.local_worker_num, describe(node));
  return text;
}

bool Membership::on_loopback() const {
  return std::all_of(nodes_.begin(), nodes_.end(), [](const Node& node) {
    return node.address.starts_with("127.") || node.address == "::1";
  });
}

std::string Membership::store_launcher() const {
  const auto found =
      std::find_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return node.serves_store; });
  return found == nodes_.end() ? "" : describe(*found);
}

}  // namespace syncbn::launch
