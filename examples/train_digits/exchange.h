#pragma once

#include <cstdint>
#include <span>

#include "data.h"

/// Gives every rank all of `values`, of which it had its own part; each value is one rank's own, to the bit.
/// Collective over the world.
void give_to_all(std::span<float> values, Share own);

/// Whether all ranks of the world brought the same. Collective over the world.
bool same_on_all_ranks(std::uint64_t value);
