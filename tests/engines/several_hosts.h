// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rank_processes.h"
#include "syncbn/error.h"

/// Groups on several hosts. All hosts are this machine.
namespace syncbn::testing {

/// Memory of an engine that all processes share: what ranks report, and counts for the tests.
struct HostsBoard {
  std::atomic<bool> ended{false};
  std::array<char, 256> reason{};
  std::array<std::atomic<std::int64_t>, 16> waiting{};   ///< The last sum in which a rank waits.
  std::array<std::atomic<std::int64_t>, 16> messages{};  ///< Sums that a rank has begun over an engine.
  std::atomic<int> flag{0};                              ///< For a test's own use.

  static HostsBoard& make() {  // for the rest of the test's process
    void* memory =
        mmap(nullptr, sizeof(HostsBoard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return *new (memory) HostsBoard;
  }
};

/// An engine over a window. `names`: the window's ranks in the group.
class HostsEngine final : public MultiHostCommunicator {
 public:
  using Connect = std::function<std::unique_ptr<MultiHostCommunicator>(const std::vector<int>& ranks)>;
  HostsEngine(std::unique_ptr<engines::SharedWindow> window, std::vector<int> names, HostsBoard& board,
              bool background, Connect connect = nullptr)
      : window_(std::move(window)),
        names_(std::move(names)),
        board_(board),
        background_(background),
        connect_(std::move(connect)) {}

  int rank() const override { return window_->rank(); }
  int size() const override { return window_->size(); }
  std::span<std::int64_t> buffer(std::size_t words) override { return window_->buffer(words); }
  void start(std::size_t words) override {
    ++board_.messages[static_cast<std::size_t>(names_[static_cast<std::size_t>(rank())])];
    window_->start(words);
  }
  void wait(Deadline deadline) override {
    const auto name = static_cast<std::size_t>(names_[static_cast<std::size_t>(rank())]);
    if (!background_) board_.waiting[name] = board_.messages[name].load();
    try {
      window_->wait(deadline);
    } catch (const PeerError&) {
      check_peers();
      throw;
    }
  }
  void abort() noexcept override { window_->abort(); }
  std::unique_ptr<MultiHostCommunicator> connect_leaders(const std::vector<int>& ranks, Deadline) override {
    return connect_ ? connect_(ranks) : nullptr;
  }
  bool sums_in_background() const override { return background_; }
  void report_waiting(std::int64_t sum) override {
    board_.waiting[static_cast<std::size_t>(names_[static_cast<std::size_t>(rank())])] = sum;
  }
  std::vector<int> absent_from(std::int64_t sum) override {
    std::vector<int> absent;
    for (const int name : names_) {
      if (name != names_[static_cast<std::size_t>(rank())] &&
          board_.waiting[static_cast<std::size_t>(name)] < sum)
        absent.push_back(name);
    }
    return absent;
  }
  void give_up(const std::string& reason) noexcept override {
    if (!board_.ended)
      std::copy_n(reason.begin(), std::min<std::size_t>(reason.size(), 255), board_.reason.begin());
    board_.ended = true;
    window_->abort();
  }
  void check_peers() override {
    if (board_.ended) throw PeerError(board_.reason.data());
  }

 private:
  const std::unique_ptr<engines::SharedWindow> window_;
  const std::vector<int> names_;
  HostsBoard& board_;
  const bool background_;
  const Connect connect_;
};

}  // namespace syncbn::testing
