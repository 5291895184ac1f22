// How members find out that they mean the same list
//
// Each name has a board in the store. Whoever connects a group takes the next number on its board and posts,
// under it, who it is and what it means: world rank, generation, list. Then it reads the board from the first
// entry on until every member of its list has posted the same list and generation.
//
// A board also holds entries of groups that had the name before, were used and destroyed. They accuse nobody,
// because a group that came to life has entries of all its members: this rank was in it, and finds an entry
// of its own. And an entry of a later group lies behind all entries of this one, where nobody reads. What is
// left is a true difference: an entry of a member of my list, with another list that names me, which I never
// joined. It waits for me there as I wait for it here. Who finds this posts it, for the members of its own
// list that the other one does not name. Where only one of two lists names the other's rank, that rank may
// still be on its way, so that the deadline decides; the error then says what the board shows.
#include "engines/handshake.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>
#include <vector>

#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

struct Entry {
  int world_rank = 0;
  int generation = 0;
  std::vector<int> ranks;
  std::string mismatch;  // what the rank found; empty when it comes
};

std::string encode(const Entry& entry) {
  return fmt::format("{} {} {}{}{}", entry.world_rank, entry.generation, fmt::join(entry.ranks, " "),
                     entry.mismatch.empty() ? "" : "!", entry.mismatch);
}

Entry decode(const std::string& text) {
  const std::size_t mark = std::min(text.find('!'), text.size());
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + mark;
  bool readable = true;
  while (readable && at < end) {
    const auto [stop, error] = std::from_chars(at, end, numbers.emplace_back());
    readable = error == std::errc() && (stop == end || *stop == ' ');
    at = stop + 1;
  }
  if (!readable || numbers.size() < 3) {
    throw PeerError(fmt::format("an unreadable entry in the store: '{}'", text));
  }
  return {numbers[0],
          numbers[1],
          {numbers.begin() + 2, numbers.end()},
          mark < text.size() ? text.substr(mark + 1) : ""};
}

bool contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

std::string list_text(const std::vector<int>& ranks) { return fmt::format("[{}]", fmt::join(ranks, ", ")); }

class Board {
 public:
  Board(rendezvous::Store& store, const group::GroupSpec& spec, int world_rank)
      : store_(store), key_("board/" + spec.name), mine_{world_rank, spec.generation, spec.ranks, ""} {
    my_number_ = post(mine_);
  }

  void read_until_all_came(Deadline deadline) {
    for (std::int64_t number = 1; !missing().empty(); ++number) {
      const Entry entry = read(number, deadline);
      if (!entry.mismatch.empty()) {
        if (same_group(entry)) throw MismatchError(entry.mismatch);
        continue;
      }
      seen_.push_back(entry);
      if (entry.world_rank == mine_.world_rank) joined_.insert({entry.ranks, entry.generation});
      if (number < my_number_) continue;  // what I joined is known when my own number is reached
      for (; judged_ < seen_.size(); ++judged_) judge(seen_[judged_]);
    }
  }

 private:
  std::string entry_key(std::int64_t number) const { return fmt::format("{}/{}", key_, number); }

  std::int64_t post(const Entry& entry) {
    const std::int64_t number = store_.add(key_, 1);
    store_.set(entry_key(number), encode(entry));
    return number;
  }

  bool same_group(const Entry& entry) const {
    return entry.ranks == mine_.ranks && entry.generation == mine_.generation;
  }

  Entry read(std::int64_t number, Deadline deadline) {
    try {
      return decode(store_.get(entry_key(number), deadline));
    } catch (const TimeoutError&) {
      throw TimeoutError(absence());
    }
  }

  void judge(const Entry& other) {
    const bool accuses = other.ranks != mine_.ranks && contains(missing(), other.world_rank) &&
                         contains(other.ranks, mine_.world_rank) &&
                         !joined_.contains({other.ranks, other.generation});
    if (!accuses) return;
    Entry found = mine_;
    found.mismatch = fmt::format(
        "different lists under one name: world rank {} made it of {}, world rank {} of {}; the group is "
        "broken",
        other.world_rank, list_text(other.ranks), mine_.world_rank, list_text(mine_.ranks));
    post(found);
    throw MismatchError(found.mismatch);
  }

  std::vector<int> missing() const {
    std::vector<int> ranks = mine_.ranks;
    for (const Entry& entry : seen_) {
      if (same_group(entry)) std::erase(ranks, entry.world_rank);
    }
    return ranks;
  }

  // Which members never came, and what those came with who came differently.
  std::string absence() const {
    std::string text =
        fmt::format("of {}, world {} never came", list_text(mine_.ranks), base::rank_list(missing()));
    for (const int rank : missing()) {
      const auto last =
          std::find_if(seen_.rbegin(), seen_.rend(), [&](const Entry& e) { return e.world_rank == rank; });
      if (last == seen_.rend()) continue;
      text += fmt::format("; world rank {} came with {}", rank, list_text(last->ranks));
      if (last->ranks == mine_.ranks) {
        text += fmt::format(", made for the {}. time, here for the {}.", last->generation + 1,
                            mine_.generation + 1);
      }
    }
    return text;
  }

  rendezvous::Store& store_;
  const std::string key_;
  const Entry mine_;
  std::int64_t my_number_ = 0;
  std::vector<Entry> seen_;
  std::size_t judged_ = 0;
  std::set<std::pair<std::vector<int>, int>> joined_;  // what this rank came with, now or before
};

}  // namespace

std::string agree_on_list(rendezvous::Store& store, const group::GroupSpec& spec, int world_rank,
                          Deadline deadline) {
  Board board(store, spec, world_rank);
  board.read_until_all_came(deadline);
  return fmt::format("{}/{}/{}", spec.name, fmt::join(spec.ranks, ","), spec.generation);
}

}  // namespace syncbn::engines
