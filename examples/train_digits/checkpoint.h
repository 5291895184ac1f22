// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Settings that decide a run's numbers, besides its length and its number of ranks.
struct RunSettings {
  std::uint32_t hidden = 64;
  std::uint32_t batch = 10;  ///< Samples of a step, of all ranks together.
  std::uint64_t seed = 1;
  double learning_rate = 0.01;
  bool round_on_each_rank = false;  ///< A control, which no checkpoint stores.
};

/// All that a later run needs to go on bit for bit.
struct Checkpoint {
  RunSettings settings;
  std::uint32_t epochs = 0;  ///< Completed.
  std::int64_t batches_tracked = 0;
  std::vector<float> values;  ///< Parameters, their velocities, running mean and variance.
};

/// Version, settings, values and a CRC-32 of it all; replaces an older file in one step. @throws FileError
void save_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// @throws FileError missing, truncated, damaged, another version, or made with other settings than
/// `expected`; the message says which, with both values.
Checkpoint load_checkpoint(const std::string& path, const RunSettings& expected);
