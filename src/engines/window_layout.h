// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engines/bell.h"
#include "engines/part_counter.h"

/// Layout of the memory that the ranks of one host share. All zero is the state before the first operation.
///
/// Nothing that is read from the memory is an index, a size or an address: what a hostile process may write
/// there can spoil a sum, never make a rank read or write outside the memory.
namespace syncbn::engines {

/// Bytes between what different ranks write: a cache line. Two lines (128 bytes) were no faster.
inline constexpr std::size_t kLineBytes = 64;

/// Ranks that one window serves. Bounds the memory (65 MiB at 64 ranks) and the scan of all ranks' lines.
inline constexpr int kMaxWindowRanks = 64;

/// Changes with the layout or the protocol, so that two versions of the library never share a window.
inline constexpr std::int64_t kWindowVersion = 2;

/// Why a rank brings no more. reported: WindowHead::reason says it.
enum class Departure : std::uint32_t { none, left, gave_up, reported };

/// State of one rank, for the others to read. Only that rank writes it.
struct alignas(kLineBytes) RankLine {
  std::atomic<std::uint64_t> brought;  ///< The last operation whose words are in the rank's slot.
  std::array<std::atomic<std::uint64_t>, 2> words;  ///< Length of what it brought, by the operation's parity.
  std::atomic<Departure> departure;  ///< Why the rank will bring no more. The first reason stays.
};

/// The parts of one operation's sum.
struct alignas(kLineBytes) PartLine {
  PartCounter claimed;
  PartCounter finished;
};

struct WindowHead {
  alignas(kLineBytes) Bell bell;
  std::array<PartLine, 2> parts;  ///< By the operation's parity.
  /// Why the group's sum fails, for the ranks of this host. Written once by rank 0, before it departs.
  alignas(kLineBytes) std::array<char, 512> reason;
};

/// Size of a window: its ranks and the words in a rank's slot.
struct WindowShape {
  int ranks;
  std::size_t slot_words;
};

class WindowLayout {
 public:
  /// Bytes that a window needs.
  static std::size_t bytes(const WindowShape& shape) {
    return slots_offset(shape) + slot_bytes(shape) * 2 * (static_cast<std::size_t>(shape.ranks) + 1);
  }

  /// `memory` has bytes(shape) bytes and begins at a page.
  WindowLayout(std::byte* memory, const WindowShape& shape) : memory_(memory), shape_(shape) {}

  const WindowShape& shape() const { return shape_; }
  WindowHead& head() const { return *reinterpret_cast<WindowHead*>(memory_); }
  std::span<RankLine> lines() const {
    return {reinterpret_cast<RankLine*>(memory_ + sizeof(WindowHead)),
            static_cast<std::size_t>(shape_.ranks)};
  }
  /// The words that a rank brings to an operation. Operations alternate between two slots.
  std::span<std::uint64_t> slot(std::uint64_t operation, int rank) const {
    return {reinterpret_cast<std::uint64_t*>(
                memory_ + slots_offset(shape_) +
                slot_bytes(shape_) * ((operation & 1) * (static_cast<std::size_t>(shape_.ranks) + 1) +
                                      static_cast<std::size_t>(rank))),
            shape_.slot_words};
  }
  /// The sum of an operation, of as many words as a slot.
  std::span<std::uint64_t> result(std::uint64_t operation) const { return slot(operation, shape_.ranks); }

 private:
  static std::size_t slots_offset(const WindowShape& shape) {
    return sizeof(WindowHead) + sizeof(RankLine) * static_cast<std::size_t>(shape.ranks);
  }
  // Whole pages and a line more. Slots at whole pages would have equal low address bits, in which a processor
  // compares loads with earlier stores: it would wait for stores to other slots.
  static std::size_t slot_bytes(const WindowShape& shape) {
    constexpr std::size_t kPage = 4096;
    return (shape.slot_words * sizeof(std::uint64_t) + kPage - 1) / kPage * kPage + kLineBytes;
  }

  std::byte* memory_;
  WindowShape shape_;
};

}  // namespace syncbn::engines
