#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "syncbn/communicator.h"

namespace syncbn::group {

/// What a rank believes the group is doing. Texts are what the ranks compare and what messages show.
struct Call {
  std::string subject;   ///< Who calls and what: "forward of layer 'bn1'". Equal on all ranks.
  std::string settings;  ///< Everything else that must be equal: "C=64, input=float32, eps=1e-05, …".
};

/// Sums over a group in which no engine ever sees unequal lengths, and a different call on one rank is a
/// MismatchError on every rank. The protocol is told at the top of agreed_sum.cpp. Not thread-safe; Group
/// serialises.
class AgreedSum {
 public:
  /// Sums `payload` in place over the ranks; its length is part of the call. After a throw the payload is
  /// unspecified and the communicator must not be used again.
  /// @throws MismatchError, PeerError (a peer called fail; the engine's), TimeoutError
  void sum(Communicator& communicator, const Call& call, std::span<std::int64_t> payload, Deadline deadline);
  /// The two halves of sum(): what is done between them overlaps with the message. `call` and the payload's
  /// memory stay until finish() has returned. One sum at a time.
  void start(Communicator& communicator, const Call& call, std::span<std::int64_t> payload);
  void finish(Communicator& communicator, Deadline deadline);
  /// Takes part in place of sum() where this rank can't make its call: the others get a PeerError with
  /// `reason`. Returns when they know; the communicator must not be used again. @throws PeerError,
  /// TimeoutError: the engine's
  void fail(Communicator& communicator, const Call& call, const std::string& reason, Deadline deadline);

  std::int64_t verified_calls() const { return verified_calls_; }

 private:
  struct Started {
    const Call* call;
    std::int64_t hash;
    std::span<std::int64_t> payload;
    std::span<const std::int64_t> message;  // the first one, in the engine's buffer
  };
  using Key = std::pair<std::int64_t, std::int64_t>;  // hash and payload words of a verified call

  std::size_t predicted_words() const;
  void remember(const Key& verified);

  std::optional<Started> started_;
  std::int64_t verified_calls_ = 0;
  Key last_{-1, -1};
  std::map<Key, std::size_t> followers_;  // payload words that followed each call, the last time
};

}  // namespace syncbn::group
