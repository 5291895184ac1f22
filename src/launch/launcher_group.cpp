// SPDX-License-Identifier: Apache-2.0
#include "launch/launcher_group.h"

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <random>

#include "base/host_identity.h"
#include "launch/addresses.h"
#include "launch/report.h"
#include "rendezvous/socket.h"
#include "syncbn/error.h"

namespace syncbn::launch {
namespace {

Node own_node(const JobPlan& plan) {
  Node node;
  std::random_device random;
  node.id = fmt::format("{:08x}{:08x}", random(), random());
  node.worker_num = plan.dry_run() ? plan.options.local_worker_num : plan.options.worker_num;
  node.local_worker_num = plan.options.local_worker_num;
  node.max_restarts = plan.options.max_restarts;
  if (plan.several_nodes()) node.node_rank = plan.options.node_rank;
  node.rank_table = plan.rank_table_digest;
  node.server = plan.rank_table_server;
  node.pid = getpid();
  node.host = base::host_name();
  return node;
}

// Pairs of ports that are tried. A machine does not run that many jobs.
constexpr int kPortPairs = 1000;

[[noreturn]] void throw_cannot_serve(const Error& error) {
  throw GroupError(fmt::format(
      "{} (the workers meet at --master_addr and the port after --master_port, or at SYNCBN_PORT; "
      "without these two, a job on one node takes a free port)",
      error.what()));
}

bool is_free(int port) {
  try {
    rendezvous::listen_on("", port);
    return true;
  } catch (const rendezvous::AddressUnavailable&) {
    return false;
  }
}

}  // namespace

LauncherGroup::LauncherGroup(JobPlan& plan, std::optional<Deadline> arrive_by)
    : plan_(plan), arrive_by_(arrive_by), self_(own_node(plan)), membership_(self_) {
  if (plan.dry_run()) {
    membership_.apply(arrival_event(self_));
    return;
  }
  try {
    if (plan.takes_free_ports)
      serve_at_free_ports(plan);
    else
      serve();
  } catch (const rendezvous::AddressUnavailable& error) {
    if (!plan.several_nodes()) throw_cannot_serve(error);
    why_not_serving_ = error.what();  // the launcher that has the address serves the store
  } catch (const Error& error) {
    throw_cannot_serve(error);
  }
  self_.serves_store = store_.has_value();
  connection_.emplace(plan, self_, arrive_by.value_or(Deadline::max()));
}

void LauncherGroup::serve() {
  store_.emplace(plan_.options.master_addr, plan_.store_port, plan_.start_token(),
                 rendezvous::StoreLimits{.members = rendezvous::members_of(plan_.options.worker_num)});
}

// Finds a port for the store and, one below, a port for the framework of the task, which listens there later.
// The store's port reserves the pair against other launchers: a launcher looks at the framework's port only
// if it has got the store's. A restart looks again, from the pair before: another job may have taken it
// meanwhile.
void LauncherGroup::serve_at_free_ports(JobPlan& plan) {
  const int first = plan.store_port;
  for (; plan.store_port < first + 2 * kPortPairs; plan.options.master_port += 2, plan.store_port += 2) {
    try {
      serve();
    } catch (const rendezvous::AddressElsewhere&) {
      throw;
    } catch (const rendezvous::AddressUnavailable&) {
      continue;
    }
    if (is_free(plan.options.master_port)) return;
    store_.reset();
  }
  throw GroupError(fmt::format("rendezvous: no two neighbouring ports are free at {}, of {} pairs from {} on",
                               plan.options.master_addr, kPortPairs, first - 1));
}

void LauncherGroup::read_updates() {
  if (!connection_) return;
  JobConnection::Updates updates = connection_->take_updates();
  connected_ = updates.connected;
  try {
    for (const std::string& event : updates.events) membership_.apply(event);
  } catch (const Error& error) {
    updates.failure = error.what();
  }
  joined_.insert(updates.joined.begin(), updates.joined.end());
  if (!end_) end_ = membership_.end();
  if (!end_ && updates.failure) {
    const bool in_time = !arrive_by_ || std::chrono::steady_clock::now() < *arrive_by_;
    end_ = connected_ ? end_by_lost_store(membership_, *updates.failure)
                      : end_by_unreachable_store(*updates.failure, why_not_serving_, plan_, in_time);
  }
}

bool LauncherGroup::announce(std::string_view event) {
  if (connection_) return connection_->append(event);
  membership_.apply(event);
  end_ = membership_.end();
  return true;
}

bool LauncherGroup::announce_done() { return announce(done_event(self_)); }

bool LauncherGroup::announce_end(const JobEnd& end) { return announce(end_event(self_, end)); }

void LauncherGroup::refuse_newcomers() {
  if (store_) store_->refuse_newcomers();
}

void LauncherGroup::serve_until_idle(Deadline deadline) {
  if (store_) store_->wait_until_idle(deadline);
}

}  // namespace syncbn::launch
