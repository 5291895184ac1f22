// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "group/places.h"
#include "group/rank_report.h"
#include "syncbn/communicator.h"

namespace syncbn::group {

/// Description of a collective call. The ranks compare both texts, and error messages show them.
struct CallDescription {
  std::string subject;   ///< Caller and operation: "forward of layer 'bn1'". Equal on all ranks.
  std::string settings;  ///< Everything else that must be equal: "C=64, input=float32, eps=1e-05, …".
  std::vector<LayerReference> layers = {};  ///< The call's layers. The ranks compare their places.
  std::string_view naming = {};             ///< How a program names its layers; for messages. Not compared.
  /// hash_of_texts(), set by whoever makes many calls of one description.
  std::optional<std::int64_t> hash = {};
};

/// Hash of both texts, by which the ranks compare them. Takes 0.5 µs.
std::int64_t hash_of_texts(const CallDescription& call);

/// Sums over a group. The engine never gets messages of unequal lengths, and a rank that makes a different
/// call causes a MismatchError on every rank. The comment at the top of agreed_sum.cpp explains the protocol.
/// Not thread-safe: Group serializes the calls.
class AgreedSum {
 public:
  /// Sums `payload` in place over the ranks. Its length is part of the call. After an exception the payload
  /// is unspecified and the communicator must not be used again.
  /// @throws MismatchError; PeerError if a peer called fail() or the engine reports it; TimeoutError
  void sum(Communicator& communicator, const CallDescription& call, std::span<std::int64_t> payload,
           Deadline deadline);
  /// The two halves of sum(): start() sends the first message, wait() returns when the sum is complete. Work
  /// between them overlaps with the message. `call` and the memory of `payload` must stay valid until wait()
  /// has returned. Only one sum may be in flight.
  void start(Communicator& communicator, const CallDescription& call, std::span<std::int64_t> payload);
  void wait(Communicator& communicator, Deadline deadline);
  /// Takes part in place of sum() if this rank cannot make its call. The other ranks get a PeerError with
  /// `reason`. Returns when they have been informed. The communicator must not be used again.
  /// @throws PeerError, TimeoutError of the engine
  void fail(Communicator& communicator, const CallDescription& call, const std::string& reason,
            Deadline deadline);

  std::int64_t verified_calls() const { return verified_calls_; }
  /// The subject of a call, for messages. An unnamed layer has its number, once it has taken part in a sum.
  std::string subject(const CallDescription& call) const;

 private:
  struct InFlight {
    const CallDescription* call;
    CallNumbers numbers;
    std::span<std::int64_t> payload;
    std::span<const std::int64_t> message;  // the first message, in the engine's buffer
  };
  using Key = std::pair<std::int64_t, std::int64_t>;  // hash and payload words of a verified call

  std::size_t room() const;
  std::int64_t take_places(const CallDescription& call);
  std::string way_out(const CallDescription& call, const std::vector<RankReport>& reports) const;
  std::optional<std::int64_t> first_mixed_call(const CallDescription& call,
                                               const std::vector<RankReport>& reports) const;
  void remember(const Key& verified);

  std::optional<InFlight> in_flight_;
  std::int64_t verified_calls_ = 0;
  Key last_{-1, -1};
  std::map<Key, std::size_t> next_words_;  // payload words of the call that last followed each call
  Places places_;
};

}  // namespace syncbn::group
