#include "launch/membership.h"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "launch/exit_codes.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

// News are a word and fields, each ended by a line end, but for the last, which may hold any bytes.
constexpr std::string_view kCome = "come";
constexpr std::string_view kDone = "done";
constexpr std::string_view kEnd = "end";

std::string take_field(std::string_view& news) {
  const std::size_t end = news.find('\n');
  if (end == std::string_view::npos)
    throw GroupError(fmt::format("what a launcher told is cut off: '{}'", news));
  std::string field(news.substr(0, end));
  news.remove_prefix(end + 1);
  return field;
}

int take_int(std::string_view& news) {
  const std::string field = take_field(news);
  int value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || end != field.data() + field.size())
    throw GroupError(fmt::format("a launcher told '{}', expected a number", field));
  return value;
}

Node take_node(std::string_view& news) {
  Node node;
  node.id = take_field(news);
  node.worker_num = take_int(news);
  node.local_worker_num = take_int(news);
  node.max_restarts = take_int(news);
  node.node_rank = take_int(news);
  node.rank_table = take_field(news);
  node.server = take_field(news);
  node.serves = take_int(news) != 0;
  node.pid = take_int(news);
  node.host = take_field(news);
  node.address = take_field(news);
  return node;
}

}  // namespace

std::string has_come(const Node& node) {
  return fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n", kCome, node.id, node.worker_num,
                     node.local_worker_num, node.max_restarts, node.node_rank, node.rank_table, node.server,
                     node.serves ? 1 : 0, node.pid, node.host, node.address);
}

std::string is_done(const Node& node) { return fmt::format("{}\n{}\n", kDone, node.id); }

std::string has_ended(const Node& node, const End& end) {
  return fmt::format("{}\n{}\n{}\n{}\n{}", kEnd, node.id, end.code, end.of_workers ? 1 : 0, end.text);
}

std::string name(const Node& node) {
  return fmt::format("launcher {} on {} ({})", node.pid, node.host, node.address);
}

void Roll::read(std::string_view news) {
  const std::string word = take_field(news);
  if (word == kCome) return admit(take_node(news));
  const std::string id = take_field(news);
  const bool known =
      std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.id == id; });
  if (end_ || !known) return;                             // of a launcher that came too late
  if (complete_ && own_index() == nodes_.size()) return;  // of a job that goes on without this one
  if (word == kDone) {
    if (++done_ == nodes_.size()) end_ = End{};
  } else if (word == kEnd) {
    const int code = take_int(news);
    const bool of_workers = take_int(news) != 0;
    end_ = End{code, std::string(news), of_workers};
    own_end_ = id == id_;
  } else {
    throw GroupError(fmt::format("a launcher told '{}', expected {}, {} or {}", word, kCome, kDone, kEnd));
  }
}

void Roll::admit(const Node& node) {
  if (end_) return;
  if (complete_) {
    if (node.id == id_)
      end_ = End{kCannotStart,
                 fmt::format("syncbn-run: can't run the job: it is complete with its --worker_num={} workers "
                             "({}); the {} of this launcher are too many\n",
                             nodes_[0].worker_num, attendance(), node.local_worker_num)};
    return;
  }
  nodes_.push_back(node);
  if (const std::string why = disagreement(); !why.empty()) {
    end_ = End{kCannotStart, fmt::format("syncbn-run: can't run the job: {}\n", why)};
    disagrees_ = true;
  } else if (workers_come() == node.worker_num) {
    complete_ = true;
    const auto before = [](const Node& a, const Node& b) {
      return a.node_rank != b.node_rank ? a.node_rank < b.node_rank : a.serves && !b.serves;
    };
    std::stable_sort(nodes_.begin(), nodes_.end(), before);
  }
}

// Of the newest node with those that came before it; "" where there is none.
std::string Roll::disagreement() const {
  const Node& first = nodes_.front();
  const Node& newest = nodes_.back();
  if (newest.worker_num != first.worker_num)
    return fmt::format("--worker_num is {} for {} and {} for {}; allowed: the same on every node",
                       first.worker_num, name(first), newest.worker_num, name(newest));
  if (newest.max_restarts != first.max_restarts)
    return fmt::format("--max_restarts is {} for {} and {} for {}; allowed: the same on every node",
                       first.max_restarts, name(first), newest.max_restarts, name(newest));
  if (newest.rank_table != first.rank_table)
    return fmt::format("--rank_table_file of {} and of {} differ; allowed: the same table on every node",
                       name(first), name(newest));
  const auto same_server = std::find_if(nodes_.begin(), nodes_.end() - 1, [&](const Node& node) {
    return !node.server.empty() && node.server == newest.server;
  });
  if (same_server != nodes_.end() - 1)
    return fmt::format(
        "--rank_table_file: {} and {} are both its server '{}'; allowed: one launcher a server",
        name(*same_server), name(newest), newest.server);
  if ((newest.node_rank < 0) != (first.node_rank < 0))
    return fmt::format("--node_rank is {} for {} and {} for {}; allowed: given on every node, or on none",
                       first.node_rank, name(first), newest.node_rank, name(newest));
  if (workers_come() > newest.worker_num)
    return fmt::format("--local_worker_num adds up to {}, more than --worker_num={}: {}", workers_come(),
                       newest.worker_num, attendance());
  if (newest.node_rank < 0) return "";
  std::set<int> given;
  for (const Node& node : nodes_) {
    if (!given.insert(node.node_rank).second) {
      const auto same = std::find_if(nodes_.begin(), nodes_.end(),
                                     [&](const Node& each) { return each.node_rank == node.node_rank; });
      return fmt::format("--node_rank is {} for {} and for {}; allowed: each number once", node.node_rank,
                         name(*same), name(node));
    }
  }
  const int count = static_cast<int>(nodes_.size());
  if (workers_come() < newest.worker_num || *given.rbegin() < count) return "";
  int missing = 0;
  while (given.contains(missing)) ++missing;
  const auto highest = std::max_element(
      nodes_.begin(), nodes_.end(), [](const Node& a, const Node& b) { return a.node_rank < b.node_rank; });
  return fmt::format("--node_rank {} is missing, and {} has --node_rank={}; allowed for {} nodes: 0 to {}",
                     missing, name(*highest), highest->node_rank, count, count - 1);
}

int Roll::workers_come() const {
  int workers = 0;
  for (const Node& node : nodes_) workers += node.local_worker_num;
  return workers;
}

std::size_t Roll::own_index() const {
  const auto own =
      std::find_if(nodes_.begin(), nodes_.end(), [this](const Node& node) { return node.id == id_; });
  return static_cast<std::size_t>(own - nodes_.begin());
}

Placement Roll::placement() const {
  Placement placement;
  placement.node = static_cast<int>(own_index());
  placement.node_count = static_cast<int>(nodes_.size());
  for (std::size_t i = 0; i < own_index(); ++i) placement.first_rank += nodes_[i].local_worker_num;
  return placement;
}

std::string Roll::place() const {
  if (nodes_.size() == 1) return "";
  const Node& self = nodes_[own_index()];
  return fmt::format(" on node {} ({}, {})", own_index(), self.host, self.address);
}

std::string Roll::attendance() const {
  std::string text;
  for (const Node& node : nodes_)
    text += fmt::format("{}{} by {}", text.empty() ? "" : ", ", node.local_worker_num, name(node));
  return text;
}

bool Roll::on_loopback() const {
  return std::all_of(nodes_.begin(), nodes_.end(), [](const Node& node) {
    return node.address.starts_with("127.") || node.address == "::1";
  });
}

std::string Roll::server() const {
  const auto found = std::find_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return node.serves; });
  return found == nodes_.end() ? "" : name(*found);
}

}  // namespace syncbn::launch
