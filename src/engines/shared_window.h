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
  /// True while the process of another rank lives.
  using Lives = std::function<bool(int rank)>;

  /// `memory` has WindowLayout::bytes(shape) bytes, all zero before the first rank's window is made.
  SharedWindow(std::shared_ptr<const SharedMemory> memory, const WindowShape& shape, int rank);
  ~SharedWindow() override { abort(); }

  int rank() const override { return rank_; }
  int size() const override { return window_.shape().ranks; }
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override;
  /// From now on a wait ends within about 100 ms when a process for which it waits has died. Before, it ends
  /// at its deadline, since a rank's process may not have attached yet.
  void watch(Lives lives) { lives_ = std::move(lives); }

 private:
  std::size_t piece_words() const;
  RankLine& line(int rank) const { return window_.lines()[static_cast<std::size_t>(rank)]; }
  void bring_piece();
  bool has_brought(int rank) const { return line(rank).brought.load() >= operation_; }
  bool everyone_brought() const;
  bool settled() const;
  void await_pieces(Deadline deadline);
  void check_lengths() const;
  std::vector<int> missing() const;
  std::string departures() const;
  void sum_piece();
  void sum_in_parts(std::span<std::uint64_t> words);
  void depart(Departure why) noexcept;

  const std::shared_ptr<const SharedMemory> memory_;
  const WindowLayout window_;
  const int rank_;
  Lives lives_ = [](int) { return true; };
  const base::ForkGuard forks_;  // a fork does not have the memory
  std::vector<std::int64_t> buffer_;
  std::size_t words_ = 0;                // of the message under way
  std::size_t summed_ = 0;               // of these, in earlier pieces
  std::uint64_t operation_ = 0;          // number of the piece, from 1
  std::atomic<bool> unsettled_ = false;  // a message was started and not summed, or failed
  std::atomic<bool> aborted_ = false;
};

}  // namespace syncbn::engines
