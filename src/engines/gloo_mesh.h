// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gloo/transport/device.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engines/gloo_communicator.h"
#include "engines/gloo_membership.h"
#include "group/engine.h"
#include "rendezvous/store.h"

namespace syncbn::engines {

/// Connects the members of `group` with each other. Repeats the attempt with more time until it succeeds on
/// all members or the deadline has passed. All members must pass the same `key`, which no other group has.
/// `store` is this world's part of the job's store. Messages have `names` for the members.
/// @throws TimeoutError with the last failure; PeerError
std::unique_ptr<GlooCommunicator> connect_mesh(const GlooMembership& membership, rendezvous::Store& store,
                                               const group::GroupSpec& group, const std::vector<int>& names,
                                               const std::string& key,
                                               const std::shared_ptr<gloo::transport::Device>& device,
                                               Deadline deadline);

}  // namespace syncbn::engines
