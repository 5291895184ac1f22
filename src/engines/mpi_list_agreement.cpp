// How members find out whether they mean the same list, without a store
//
// The board of list_agreement.cpp needs a counter that all ranks increment, so it needs a process that
// answers at any time. MPI has no such process: a rank answers only while it is in an MPI call of its own. So
// each member sends its list to all other members, and then "ready" when it has received the same list from
// all of them. A member that receives another list tells all other members, because some of them may be
// waiting for a member whose list does not contain them.
#include "engines/mpi_list_agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "base/rank_list.h"
#include "engines/list_agreement.h"
#include "engines/mpi_messages.h"

namespace syncbn::engines {
namespace {

// The texts besides the list. The list's text starts with the group's name and a line feed.
constexpr std::string_view kReady = "ready";  // the sender has received the same list from all members
constexpr std::string_view kDifference = "difference";  // followed by the message of the error

std::vector<int> parse_list(std::string_view text) {
  std::vector<int> ranks;
  while (!text.empty()) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks.emplace_back());
    if (error != std::errc()) throw PeerError(fmt::format("an unreadable list of ranks: '{}'", text));
    text.remove_prefix(std::min(static_cast<std::size_t>(end - text.data()) + 2, text.size()));
  }
  return ranks;
}

}  // namespace

void agree_on_list(MPI_Comm world, int world_rank, const group::GroupSpec& spec, int tag, Deadline deadline) {
  const std::string own = fmt::format("{}\n{}", spec.name, fmt::join(spec.ranks, ", "));
  std::vector<int> peers = spec.ranks;
  std::erase(peers, world_rank);
  std::vector<int> absent = peers;   // their lists have not arrived
  std::vector<int> unready = peers;  // their kReady has not arrived
  bool ready = false;
  send_text(world, peers, tag, own);
  const bool complete = poll_until(deadline, [&] {
    free_delivered_texts();
    for (const int peer : peers) {
      const std::optional<std::string> text = receive_text(world, peer, tag);
      if (!text) continue;
      if (text->starts_with(kDifference)) throw MismatchError(text->substr(kDifference.size()));
      if (*text != own && *text != kReady) {
        const auto other = parse_list(std::string_view(*text).substr(text->find('\n') + 1));
        const std::string difference = different_lists(peer, other, world_rank, spec.ranks);
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
    throw missing_peer(fmt::format("of {}, world {} did not come by the deadline",
                                   base::bracketed(spec.ranks),
                                   base::rank_list(absent.empty() ? unready : absent)));
}

}  // namespace syncbn::engines
