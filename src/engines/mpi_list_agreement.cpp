// SPDX-License-Identifier: Apache-2.0

// How members find out whether they mean the same list, without a store
//
// The board of list_agreement.cpp needs a counter that all ranks increment, so it needs a process that
// answers at any time. MPI has no such process: a rank answers only while it is in an MPI call of its own. So
// each member sends its list to all other members, and then "ready" when it has received the same list from
// all of them. A member that receives another list tells all other members, because some of them may be
// waiting for a member whose list does not contain them.
#include "engines/mpi_list_agreement.h"

#include <fmt/core.h>

#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/long_wait.h"
#include "base/rank_list.h"
#include "engines/list_agreement.h"

namespace syncbn::engines {
namespace {

// The texts besides the list. They start with a line feed, because the list's text starts with the group's
// name.
constexpr std::string_view kReady = "\nready";            // the sender has the same list from all members
constexpr std::string_view kDifference = "\ndifference";  // followed by the message of the error

struct Message {
  std::string text;
  Request request;
};

// Messages of all groups that are in flight. Never destroyed, because some may be in flight at the end of the
// process.
struct Outbox {
  std::mutex mutex;  // guards the list
  std::list<Message> messages;
};
Outbox& outbox() {
  static auto* const box = new Outbox;
  return *box;
}

// MPI reads the text until the peer has received it, which may be never.
void send_text(MPI_Comm world, const std::vector<int>& peers, int tag, const std::string& text) {
  for (const int peer : peers) {
    const std::lock_guard lock(outbox().mutex);
    Message& message = outbox().messages.emplace_back();
    message.text = text;
    message.request.started(MPI_Isend(message.text.data(), static_cast<int>(text.size()), MPI_CHAR, peer, tag,
                                      world, message.request.get()),
                            "MPI_Isend");
  }
  free_delivered_texts();
}

// The next text from `peer`; none if there is no text yet.
std::optional<std::string> receive_text(MPI_Comm world, int peer, int tag) {
  int found = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  check_mpi(MPI_Improbe(peer, tag, world, &found, &message, &status), "MPI_Improbe");
  if (found == 0) return std::nullopt;
  int count = 0;
  MPI_Get_count(&status, MPI_CHAR, &count);
  std::string text(static_cast<std::size_t>(count), '\0');
  check_mpi(MPI_Mrecv(text.data(), count, MPI_CHAR, &message, &status), "MPI_Mrecv");
  return text;
}

}  // namespace

void free_delivered_texts() {
  const std::lock_guard lock(outbox().mutex);
  outbox().messages.remove_if(
      [](Message& message) { return !message.request.in_flight() || message.request.test(); });
}

void agree_on_list(MPI_Comm world, int world_rank, const group::GroupSpec& spec, int tag, Deadline deadline) {
  const std::string own = fmt::format("{}\n{}", spec.name, base::bracketed(spec.ranks));
  std::vector<int> peers = spec.ranks;
  std::erase(peers, world_rank);
  std::vector<int> absent = peers;   // their lists have not arrived
  std::vector<int> unready = peers;  // their kReady has not arrived
  bool ready = false;
  send_text(world, peers, tag, own);
  const base::WaitPhrase phrase([&] {
    return fmt::format("for world {} of {}", base::rank_list(absent.empty() ? unready : absent),
                       base::bracketed(spec.ranks));
  });
  const bool complete = poll_until(deadline, [&] {
    free_delivered_texts();
    for (const int peer : peers) {
      const std::optional<std::string> text = receive_text(world, peer, tag);
      if (!text) continue;
      if (text->starts_with(kDifference)) throw MismatchError(text->substr(kDifference.size()));
      if (*text != own && *text != kReady) {
        const std::string difference = different_lists(peer, text->substr(text->find('\n') + 1), world_rank,
                                                       base::bracketed(spec.ranks));
        send_text(world, peers, tag, std::string(kDifference) + difference);
        throw MismatchError(difference);
      }
      std::erase(*text == own ? absent : unready, peer);
    }
    if (!ready && absent.empty()) send_text(world, peers, tag, std::string(kReady));
    ready = absent.empty();
    return unready.empty();
  });
  if (!complete)
    throw missing_peer(fmt::format("of {}, world {} did not come", base::bracketed(spec.ranks),
                                   base::rank_list(absent.empty() ? unready : absent)));
}

}  // namespace syncbn::engines
