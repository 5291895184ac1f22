// SPDX-License-Identifier: Apache-2.0

// How members find out whether they mean the same list
//
// Each group name has a board in the store. A rank that connects a group takes the next number on the board
// and posts an entry under this number: its world rank, the generation and the list. Then it reads the board
// from the first entry on, until every member of its list has posted the same list and generation.
//
// A board also holds entries of earlier groups that had the same name, were used and destroyed. They must not
// cause a mismatch. An earlier group came to life only if all its members posted entries, so a rank that was
// a member finds an entry of its own for that group. Entries of later groups stand behind all entries of this
// group, where no member reads. What remains is a true difference: a member of my list has posted another
// list that contains me, and I never posted that list. That member waits for me there, as I wait for it here.
// The rank that finds the difference posts it, because some members of its list may not be in the other list.
//
// If only one of two lists contains the other rank, that rank may still be on its way here. In this case the
// deadline decides, and the error says what is on the board.
//
// mpi_list_agreement.cpp does the same for the MPI engine, which has no store, and says why.
#include "engines/list_agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>
#include <vector>

#include "base/long_wait.h"
#include "base/rank_list.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

struct Entry {
  int world_rank = 0;
  int generation = 0;
  std::vector<int> ranks;
  std::string mismatch;  // the difference that the rank found; empty in a rank's first entry
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
    throw PeerError(fmt::format("the store has an unreadable entry: '{}'", text));
  }
  return {numbers[0],
          numbers[1],
          {numbers.begin() + 2, numbers.end()},
          mark < text.size() ? text.substr(mark + 1) : ""};
}

bool contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

class Board {
 public:
  Board(rendezvous::Store& store, const group::GroupSpec& spec, int world_rank)
      : store_(store), key_("board/" + spec.name), mine_{world_rank, spec.generation, spec.ranks, ""} {
    my_number_ = post(mine_);
  }

  void read_until_complete(Deadline deadline) {
    const base::WaitPhrase phrase([this] { return "for " + absence(""); });
    for (std::int64_t number = 1; !missing().empty(); ++number) {
      const Entry entry = read(number, deadline);
      if (!entry.mismatch.empty()) {
        if (same_group(entry)) throw MismatchError(entry.mismatch);
        continue;
      }
      seen_.push_back(entry);
      if (entry.world_rank == mine_.world_rank) joined_.insert({entry.ranks, entry.generation});
      if (number < my_number_) continue;  // before that, joined_ is incomplete
      for (; checked_ < seen_.size(); ++checked_) check_no_conflict(seen_[checked_]);
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
      throw TimeoutError(absence(" never came"));
    }
  }

  void check_no_conflict(const Entry& other) {
    const bool conflicts = other.ranks != mine_.ranks && contains(missing(), other.world_rank) &&
                           contains(other.ranks, mine_.world_rank) &&
                           !joined_.contains({other.ranks, other.generation});
    if (!conflicts) return;
    Entry found = mine_;
    found.mismatch = different_lists(other.world_rank, base::bracketed(other.ranks), mine_.world_rank,
                                     base::bracketed(mine_.ranks));
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

  // The members that have not come, and the last entry of each of them for another group of this name.
  std::string absence(const char* verb) const {
    std::string text =
        fmt::format("world {} of {}{}", base::rank_list(missing()), base::bracketed(mine_.ranks), verb);
    for (const int rank : missing()) {
      const auto last =
          std::find_if(seen_.rbegin(), seen_.rend(), [&](const Entry& e) { return e.world_rank == rank; });
      if (last == seen_.rend()) continue;
      text += fmt::format("; world rank {} came with {}", rank, base::bracketed(last->ranks));
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
  std::size_t checked_ = 0;                            // number of entries of seen_ that were checked
  std::set<std::pair<std::vector<int>, int>> joined_;  // lists and generations that this rank has posted
};

}  // namespace

std::string different_lists(int a, std::string_view list_of_a, int b, std::string_view list_of_b) {
  return fmt::format(
      "different lists under one name: world rank {} made it of {}, world rank {} of {}; the group is broken",
      a, list_of_a, b, list_of_b);
}

std::string agree_on_list(rendezvous::Store& store, const group::GroupSpec& spec, int world_rank,
                          Deadline deadline) {
  Board board(store, spec, world_rank);
  board.read_until_complete(deadline);
  return fmt::format("{}/{}/{}", spec.name, fmt::join(spec.ranks, ","), spec.generation);
}

}  // namespace syncbn::engines
