// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/forks.h"
#include "engines/arrivals.h"
#include "engines/shared_memory.h"
#include "engines/window_layout.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Words of a rank's slot: 512 KiB, a forward or backward of 2,849 float32 channels in one piece. Longer
/// messages go in several pieces.
inline constexpr std::size_t kSlotWords = 65536;

/// Sums over processes of one host in memory that they share. The top of shared_window.cpp describes the
/// protocol.
class SharedWindow final : public Communicator {
 public:
  /// `memory` has WindowLayout::bytes(shape) bytes, all zero before the first rank's window is made.
  SharedWindow(std::shared_ptr<const SharedMemory> memory, const WindowShape& shape, int rank);
  ~SharedWindow() override;

  int rank() const override { return rank_; }
  int size() const override { return ranks(); }
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override;
  /// As Arrivals::watch(). `lives` is not asked about this rank.
  void watch(const Arrivals::Lives& lives);

  /// From now on the ranks of several hosts sum, each host in a window. `names` are the ranks of this host in
  /// the group. Rank 0 sums with the leaders of the other hosts; only it has `between`.
  void span_hosts(std::vector<int> names, MultiHostCommunicator& group,
                  std::unique_ptr<MultiHostCommunicator> between);

 private:
  struct Leader;
  using Words = std::span<std::uint64_t>;

  int ranks() const { return window_.shape().ranks; }
  int name(int rank) const { return arrivals_.names()[static_cast<std::size_t>(rank)]; }
  RankLine& line(int rank) const { return window_.lines()[static_cast<std::size_t>(rank)]; }
  Words piece(std::size_t from);
  void bring_piece(std::size_t from);
  void publish(std::uint64_t operation, std::size_t words);
  void check_lengths(const Arrivals::Awaited& brought, std::size_t expected) const;
  void sum_piece(Words own);
  void add_slots(Words own, std::uint64_t operation) const;
  void sum_in_parts(Words words);
  void relay_message(Deadline deadline, const std::function<void()>& look);
  void await_message(Deadline deadline, const std::function<void()>& look);
  Deadline report_time(Deadline deadline) const;
  std::int64_t piece_between_hosts() const;
  std::string absent_ranks() const;
  void give_up(const std::string& why) noexcept;
  void depart(Departure why) noexcept;
  void report(const std::string& why) noexcept;

  const std::shared_ptr<const SharedMemory> memory_;
  const WindowLayout window_;
  const int rank_;
  Arrivals arrivals_;
  const base::ForkGuard forks_;  // a fork does not have the memory
  std::vector<std::int64_t> buffer_;
  std::size_t words_ = 0;                   // of the message under way
  std::uint64_t operation_ = 0;             // number of the piece, from 1; the leader's, of the last message
  std::atomic<bool> unsettled_ = false;     // a message was started and not summed, or failed
  MultiHostCommunicator* group_ = nullptr;  // of the ranks of all hosts; null: all are on this host
  std::uint64_t pieces_on_one_host_ = 0;    // before the group spanned hosts
  std::unique_ptr<Leader> leader_;          // only on rank 0 of a group on several hosts
};

}  // namespace syncbn::engines
