// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "data.h"

/// Gives every rank all of `values`. Before the call a rank has only its `own` part. Values are copied, to
/// the bit. Collective over the world.
void give_to_all(std::span<float> values, Share own);

/// True if all ranks of the world brought the same value. Collective over the world.
bool same_on_all_ranks(std::uint64_t value);
