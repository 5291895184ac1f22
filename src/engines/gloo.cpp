// SPDX-License-Identifier: Apache-2.0

// Engine "gloo": the ranks are processes that meet at a store and sum over TCP with Gloo.
#include <gloo/transport/tcp/device.h>

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/block_signals.h"
#include "base/long_wait.h"
#include "engines/entry.h"
#include "engines/gloo_membership.h"
#include "engines/gloo_mesh.h"
#include "engines/gloo_served_store.h"
#include "engines/gloo_world_store.h"
#include "engines/list_agreement.h"
#include "engines/local_group.h"

namespace syncbn::engines {
namespace {

// Creates the device whose thread drives all of this rank's connections.
std::shared_ptr<gloo::transport::Device> create_device(const std::string& local_address) {
  gloo::transport::tcp::attr address(local_address.c_str());
  if (address.hostname.starts_with("127.") || address.hostname == "::1") address.hostname = "127.0.0.1";
  const base::BlockSignals blocked;  // for the device's thread, which writes to sockets
  return gloo::transport::tcp::CreateDevice(address);
}

class GlooEngine final : public group::Engine {
 public:
  GlooEngine(const environment::WorldSpec& spec, Deadline deadline)
      : size_(spec.size),
        may_share_memory_(spec.shared_memory),
        membership_(meet(spec, deadline)),
        device_(create_device(membership_.local_address())) {}

  int rank() const override { return membership_.rank(); }
  int size() const override { return size_; }
  const std::vector<std::string>& hosts() const override { return membership_.hosts(); }

  std::unique_ptr<Communicator> connect(const group::GroupSpec& group, Deadline deadline) override {
    std::vector<int> names(group.ranks.size());
    std::iota(names.begin(), names.end(), 0);
    std::string key;
    auto communicator = with_store(group.ranks, deadline, [&](rendezvous::Store& store) {
      key = agree_on_list(store, group, rank(), deadline);
      return connect_mesh(membership_, store, group, names, key, device_, deadline);
    });
    communicator->set_connect_leaders([this, group, key](const std::vector<int>& ranks, Deadline until) {
      return connect_leaders(group, key, ranks, until);
    });
    return share_memory_of_hosts(std::move(communicator), may_share_memory_, deadline);
  }

  void note_peer_error() noexcept override { membership_.note_peer_error(); }

 private:
  // One rank of each host, by group ranks.
  std::unique_ptr<MultiHostCommunicator> connect_leaders(const group::GroupSpec& group,
                                                         const std::string& key,
                                                         const std::vector<int>& ranks, Deadline deadline) {
    group::GroupSpec leaders{group.name, {}, group.generation};
    for (const int r : ranks) leaders.ranks.push_back(group.ranks[static_cast<std::size_t>(r)]);
    return with_store(leaders.ranks, deadline, [&](rendezvous::Store& store) {
      return connect_mesh(membership_, store, leaders, ranks, key + "/leaders", device_, deadline);
    });
  }

  // A connection per group, because several groups may connect at the same time.
  template <class Connect>
  std::unique_ptr<GlooCommunicator> with_store(const std::vector<int>& members, Deadline deadline,
                                               const Connect& connect) {
    const base::WaitPhrase at([this] { return "at " + membership_.store().text(); });
    rendezvous::TcpStore connection = membership_.store().connect(deadline);
    WorldStore store(connection, membership_.world(), members);
    return connect(store);
  }

  static GlooMembership meet(const environment::WorldSpec& spec, Deadline deadline) {
    const rendezvous::StoreAddress store{spec.host, serve_or_find_store(spec, deadline), spec.token};
    const base::WaitPhrase at([&store] { return "at " + store.text(); });
    return {store, spec, deadline};
  }

  const int size_;
  const bool may_share_memory_;
  GlooMembership membership_;
  const std::shared_ptr<gloo::transport::Device> device_;
};

std::unique_ptr<group::Engine> join(const environment::WorldSpec& spec, Deadline deadline) {
  return std::make_unique<GlooEngine>(spec, deadline);
}

const EngineEntry entry{"gloo", &join};

}  // namespace

// The link option --undefined names this symbol, so that the linker takes this file out of an archive.
extern "C" const bool syncbn_engine_gloo = (register_engine(entry), true);

}  // namespace syncbn::engines
