// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

inline constexpr std::size_t kPixels = 64;   ///< 8×8, the network's inputs.
inline constexpr std::size_t kClasses = 10;  ///< The network's outputs.

struct Digits {
  std::vector<float> pixels;  ///< (count, 64), in [0, 1].
  std::vector<int> labels;    ///< (count), 0 to 9.
  std::size_t count() const { return labels.size(); }
};

/// The samples with these indices, in their order.
Digits select(const Digits& digits, std::span<const std::size_t> indices);

/// Every fifth image is for testing, so that every writer is in both parts.
struct DigitsSplit {
  Digits train, test;
};

/// @throws FileError missing, truncated, damaged, or no digits.
DigitsSplit load_digits(const std::string& path);
/// The repository's own copy where it still lies where this program was built, else digits.bin beside the
/// program.
std::string default_digits_file();

/// The order in which an epoch visits `count` samples: a function of the seed and the epoch alone, so that it
/// is the same for every number of ranks and after a resumption.
std::vector<std::size_t> epoch_order(std::size_t count, std::uint64_t seed, std::size_t epoch);

/// The part [begin, end) of every global batch that a rank brings.
struct Share {
  std::size_t begin, end;
  std::size_t count() const { return end - begin; }
};

/// Deliberately uneven: shares grow like 1 : 2 : 3 … with the rank, from 2 samples on (10 samples on 2 ranks:
/// 3 and 7, on 4 ranks: 2, 2, 2 and 4). Where a batch is too small for that, the last ranks have nothing.
Share share_of_rank(std::size_t batch, int rank, int ranks);
