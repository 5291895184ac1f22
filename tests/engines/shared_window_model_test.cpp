// SPDX-License-Identifier: Apache-2.0
// The protocol of the shared window as a model: every interleaving of 2 or 3 ranks, a death at every step
// included; also of a host of a group on several hosts, whose leader may wait for other hosts at any moment.
//
// A step is one atomic operation of src/engines/shared_window.cpp, or the beginning or the end of an access
// to plain memory. Words are modelled by the operation that they belong to. A slot or a part holds kTorn
// between the two steps of a write, and a read looks at its beginning and at its end. A scan of all ranks'
// lines is one step: what it reads only grows, so a scan that takes longer sees what a scan at one moment
// sees, somewhat earlier or later. States that were seen are not visited again, which makes the search
// exhaustive.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace syncbn::engines {
namespace {

constexpr std::size_t kMaxRanks = 3;
constexpr std::size_t kParts = 2;
constexpr std::uint8_t kTorn = 255;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kThorough = false;  // a sanitizer has seen the code after less
#else
constexpr bool kThorough = true;
#endif

// A fault that is put into the protocol, for the controls.
enum class Fault {
  none,
  one_slot,
  counters_are_reset,
  sleeper_does_not_look_again,
  departure_is_read_last,
  leader_brings_before_the_result,
  nobody_rings_for_the_leader,
};

struct Setting {
  std::vector<std::uint8_t> operations;  // how many each rank makes before it leaves
  bool death = false;                    // one rank dies, at any step or never
  Fault fault = Fault::none;
  // A sleep ends by itself and unfinished parts are summed again. False: a wake-up that is lost is found.
  bool timeouts = true;
  // Rank 0 is the leader of this host: it brings its words last, with the sum over all hosts.
  bool several_hosts = false;
};

enum class Step : std::uint8_t {
  write_slot,
  written_slot,
  bring,
  scan_to_ring,
  ring,
  see_sleepers,
  wake,
  await,
  see_departure,
  see_brought,
  count_sleeper,
  hear,
  look_again,
  sleep,
  asleep,
  wake_up,
  add_slots,
  added_slots,
  claim,
  write_part,
  written_part,
  finish_part,
  await_parts,
  copy_parts,
  copied_parts,
  relayed,
  leave,
  left,
  failed,
  dead,
};

struct Counter {
  std::uint8_t operation, count;
};

struct Rank {
  Step step;
  Step after;  // where a ring or a sleep was begun
  std::uint8_t operation, peer, part, departed;
  std::uint8_t rang;  // since it read the bell
};

// Bytes only: equal states have equal bytes.
struct State {
  std::array<Rank, kMaxRanks> ranks;
  std::array<std::uint8_t, kMaxRanks> brought, departure;
  std::array<std::array<std::uint8_t, kMaxRanks>, 2> slots;
  std::array<std::array<std::uint8_t, kParts>, 2> result;
  std::array<Counter, 2> claimed, finished;
  std::uint8_t sleepers, deaths;

  std::string_view bytes() const { return {reinterpret_cast<const char*>(this), sizeof *this}; }
};
static_assert(std::has_unique_object_representations_v<State>);

class Model {
 public:
  explicit Model(const Setting& setting) : setting_(setting), size_(setting.operations.size()) {}

  // Ends at the first state with a fault. Returns what is wrong there.
  const std::set<std::string>& explore() {
    State first{};
    for (std::size_t r = 0; r < kMaxRanks; ++r) first.ranks[r] = {first_step(r), Step::await, 1, 0, 0, 0, 0};
    visit(first);
    while (!open_.empty() && found_.empty()) {
      const State state = open_.back();
      open_.pop_back();
      bool moved = false;
      for (std::size_t r = 0; r < size_; ++r) {
        moved = advance(state, r) || moved;
        if (setting_.death && state.deaths == 0 && is_alive(state.ranks[r])) {
          State next = state;
          next.deaths = 1;
          next.ranks[r].step = Step::dead;
          visit(next);
        }
      }
      if (!moved) end(state);
    }
    return found_;
  }
  std::size_t states() const { return seen_.size(); }
  std::size_t ends() const { return ends_; }
  std::size_t accusations() const { return accusations_; }

 private:
  static bool is_alive(const Rank& rank) {
    return rank.step != Step::left && rank.step != Step::failed && rank.step != Step::dead;
  }
  bool leads(std::size_t r) const { return setting_.several_hosts && r == 0; }
  Step first_step(std::size_t r) const { return leads(r) ? Step::await : Step::write_slot; }
  std::size_t parity(std::uint8_t operation) const { return operation & 1; }
  std::size_t slot_of(std::uint8_t operation) const {
    return setting_.fault == Fault::one_slot ? 0 : parity(operation);
  }
  std::uint8_t count(const Counter& counter, std::uint8_t operation) const {
    if (setting_.fault == Fault::counters_are_reset) return counter.count;
    return counter.operation == operation ? counter.count : 0;
  }

  void visit(const State& state) {
    if (seen_.insert(std::hash<std::string_view>()(state.bytes())).second) open_.push_back(state);
  }

  // No rank can go on: then each one has made all its operations, has named one that will not come, or has
  // died.
  void end(const State& state) {
    ++ends_;
    for (std::size_t r = 0; r < size_; ++r) {
      if (is_alive(state.ranks[r])) found_.insert("a rank waits for ever");
    }
  }

  void expect_words(std::uint8_t words, std::uint8_t operation) {
    if (words != operation)
      found_.insert(words == kTorn ? "words read while they are written" : "wrong words");
  }

  static void go(Rank& rank, Step step) { rank.step = step; }

  static void resume(Rank& rank) { go(rank, std::exchange(rank.after, Step::await)); }

  void expect_slots(const State& state, std::uint8_t operation) {
    for (std::size_t p = setting_.several_hosts ? 1 : 0; p < size_; ++p)
      expect_words(state.slots[slot_of(operation)][p], operation);
  }
  void expect_parts(const State& state, std::uint8_t operation) {
    for (const std::uint8_t words : state.result[parity(operation)]) expect_words(words, operation);
  }
  bool everyone_brought(const State& state, std::uint8_t operation, std::size_t from = 0) const {
    return std::all_of(state.brought.begin() + static_cast<std::ptrdiff_t>(from),
                       state.brought.begin() + static_cast<std::ptrdiff_t>(size_),
                       [operation](std::uint8_t brought) { return brought >= operation; });
  }
  bool is_settled(const State& state, std::uint8_t operation, std::size_t from) const {
    bool everyone = true;
    for (std::size_t p = from; p < size_; ++p) {
      if (state.brought[p] >= operation) continue;
      if (has_departed(state, p)) return true;
      everyone = false;
    }
    return everyone;
  }

  // Begins the next operation, or leaves.
  void complete(Rank& rank, std::size_t r) const {
    if (rank.operation == setting_.operations[r]) return go(rank, Step::leave);
    ++rank.operation;
    go(rank, first_step(r));
  }

  void begin_sum(Rank& rank, std::size_t r) const {
    if (setting_.several_hosts) return go(rank, leads(r) ? Step::add_slots : Step::copy_parts);
    go(rank, size_ > 2 ? Step::claim : Step::add_slots);
  }
  bool brings_first() const { return setting_.fault == Fault::leader_brings_before_the_result; }

  // One step of rank r. False: it has none.
  bool advance(const State& state, std::size_t r) {
    State next = state;
    Rank& rank = next.ranks[r];
    const std::uint8_t n = rank.operation;
    Counter& claimed = next.claimed[parity(n)];
    Counter& finished = next.finished[parity(n)];
    const std::size_t peer = rank.peer;
    switch (rank.step) {
      case Step::write_slot:
        next.slots[slot_of(n)][r] = kTorn;
        go(rank, Step::written_slot);
        break;
      case Step::written_slot:
        next.slots[slot_of(n)][r] = n;
        go(rank, Step::bring);
        break;
      case Step::bring:
        next.brought[r] = n;
        go(rank, Step::scan_to_ring);
        break;
      case Step::scan_to_ring: {
        const bool for_leader =
            setting_.several_hosts && setting_.fault != Fault::nobody_rings_for_the_leader;
        if (!everyone_brought(state, n, for_leader && !leads(r) ? 1 : 0)) {
          go(rank, Step::await);
          break;
        }
        if (setting_.fault == Fault::counters_are_reset) claimed = finished = {n, 0};
        rank.after = leads(r) ? Step::relayed : Step::await;
        go(rank, Step::ring);
        break;
      }
      case Step::ring:
        for (Rank& other : next.ranks) {
          if (other.step == Step::look_again || other.step == Step::sleep) other.rang = 1;
        }
        go(rank, Step::see_sleepers);
        break;
      case Step::see_sleepers:
        state.sleepers != 0 ? go(rank, Step::wake) : resume(rank);
        break;
      case Step::wake:
        for (Rank& other : next.ranks) {
          if (other.step == Step::asleep) go(other, Step::wake_up);
        }
        resume(rank);
        break;
      case Step::await:
        if (everyone_brought(state, n, leads(r) ? 1 : 0)) {
          begin_sum(rank, r);
          break;
        }
        for (std::size_t p = leads(r) ? 1 : 0; p < size_;
             ++p) {  // either a look at a rank that is missing, or to sleep
          if (state.brought[p] >= n) continue;
          State look = next;
          look.ranks[r].peer = static_cast<std::uint8_t>(p);
          go(look.ranks[r],
             setting_.fault == Fault::departure_is_read_last ? Step::see_brought : Step::see_departure);
          visit(look);
        }
        rank.after = Step::await;
        go(rank, Step::count_sleeper);
        break;
      case Step::see_departure:
        rank.departed = has_departed(state, peer);
        if (setting_.fault == Fault::departure_is_read_last) {
          accuse_or_go_on(next, r, peer);
        } else {
          rank.step = Step::see_brought;
        }
        break;
      case Step::see_brought:
        if (state.brought[peer] >= n) {
          rank.departed = rank.peer = 0;
          go(rank, Step::await);
        } else if (setting_.fault == Fault::departure_is_read_last) {
          rank.step = Step::see_departure;
        } else {
          accuse_or_go_on(next, r, peer);
        }
        break;
      case Step::count_sleeper:
        ++next.sleepers;
        go(rank, Step::hear);
        break;
      case Step::hear:
        rank.rang = 0;
        go(rank, setting_.fault == Fault::sleeper_does_not_look_again ? Step::sleep : Step::look_again);
        break;
      case Step::look_again: {
        const bool ready = rank.after == Step::await_parts ? count(finished, n) >= kParts
                                                           : is_settled(state, n, leads(r) ? 1 : 0);
        go(rank, ready ? Step::wake_up : Step::sleep);
        break;
      }
      case Step::sleep:
        go(rank, rank.rang == 0 ? Step::asleep : Step::wake_up);
        break;
      case Step::asleep:
        if (!setting_.timeouts) return false;
        go(rank, Step::wake_up);
        break;
      case Step::wake_up:
        --next.sleepers;
        rank.rang = 0;
        resume(rank);
        break;
      case Step::add_slots:
        expect_slots(state, n);
        go(rank, Step::added_slots);
        break;
      case Step::added_slots:
        expect_slots(state, n);
        if (leads(r)) {  // then it waits for the other hosts, for as long as they need
          go(rank, brings_first() ? Step::bring : Step::write_part);
        } else {
          complete(rank, r);
        }
        break;
      case Step::claim: {
        const std::uint8_t claims = count(claimed, n);
        if (claims >= kParts) {
          go(rank, Step::await_parts);
          break;
        }
        claimed = {n, static_cast<std::uint8_t>(claims + 1)};
        rank.part = claims;
        go(rank, Step::write_part);
        break;
      }
      case Step::write_part:
        next.result[parity(n)][rank.part] = kTorn;
        if (!leads(r)) expect_slots(state, n);
        go(rank, Step::written_part);
        break;
      case Step::written_part:
        next.result[parity(n)][rank.part] = n;
        if (!leads(r)) {
          expect_slots(state, n);
          go(rank, Step::finish_part);
        } else if (++rank.part < kParts) {
          go(rank, Step::write_part);
        } else {
          rank.part = 0;
          brings_first() ? complete(rank, r) : go(rank, Step::bring);
        }
        break;
      case Step::relayed:
        brings_first() ? go(rank, Step::write_part) : complete(rank, r);
        break;
      case Step::finish_part:
        finished = {n, static_cast<std::uint8_t>(count(finished, n) + 1)};
        rank.part = 0;
        rank.after = Step::claim;
        go(rank, finished.count == kParts ? Step::ring : Step::claim);
        break;
      case Step::await_parts:
        if (count(finished, n) >= kParts) {
          go(rank, Step::copy_parts);
          break;
        }
        if (setting_.timeouts) {
          State tired = next;
          go(tired.ranks[r], Step::add_slots);
          visit(tired);
        }
        rank.after = Step::await_parts;
        go(rank, Step::count_sleeper);
        break;
      case Step::copy_parts:
        expect_parts(state, n);
        go(rank, Step::copied_parts);
        break;
      case Step::copied_parts:
        expect_parts(state, n);
        complete(rank, r);
        break;
      case Step::leave:
        next.departure[r] = 1;
        rank.after = Step::left;
        go(rank, Step::ring);
        break;
      case Step::left:
      case Step::failed:
      case Step::dead:
        return false;
    }
    visit(next);
    return true;
  }

  static std::uint8_t has_departed(const State& state, std::size_t peer) {
    return state.departure[peer] != 0 || state.ranks[peer].step == Step::dead ? 1 : 0;
  }

  // The rank has seen whether a peer departed, and that it has not brought its words. An accusation is right
  // if the peer never will.
  void accuse_or_go_on(State& next, std::size_t r, std::size_t peer) {
    Rank& rank = next.ranks[r];
    const std::uint8_t n = rank.operation;
    const bool departed = rank.departed != 0;
    rank.departed = rank.peer = 0;
    if (!departed) return go(rank, Step::await);
    ++accusations_;
    if (next.brought[peer] >= n) found_.insert("a rank is accused that brought its words");
    next.departure[r] = 1;
    rank.after = Step::failed;
    go(rank, Step::ring);
  }

  const Setting setting_;
  const std::size_t size_;
  std::unordered_set<std::size_t> seen_;  // hashes: 3 million states collide with a probability of 2e-7
  std::vector<State> open_;
  std::set<std::string> found_;
  std::size_t ends_ = 0;
  std::size_t accusations_ = 0;
};

std::string describe(const Setting& setting) {
  std::string text;
  for (const std::uint8_t operations : setting.operations) text += fmt::format("{} ", operations);
  return (setting.several_hosts ? "several hosts, " : "") + text +
         (setting.death ? "operations, a death" : "operations") + (setting.timeouts ? "" : ", no timeouts");
}

std::set<std::string> faults_of(const Setting& setting) {
  Model model(setting);
  const std::set<std::string> found = model.explore();
  fmt::print("{}: {} states, {} ends, {} accusations\n", describe(setting), model.states(), model.ends(),
             model.accusations());
  return found;
}

TEST(SharedWindowModel, EveryInterleaving) {
  for (const std::vector<std::uint8_t>& operations :
       std::vector<std::vector<std::uint8_t>>{{3, 3}, {1, 3}, {2, 2, 2}, {1, 2, 2}}) {
    for (const bool timeouts : {true, false}) {
      const Setting setting{operations, false, Fault::none, timeouts};
      EXPECT_EQ(faults_of(setting), std::set<std::string>()) << describe(setting);
    }
  }
}

TEST(SharedWindowModel, ADeathAtEveryStep) {
  for (const std::vector<std::uint8_t>& operations :
       std::vector<std::vector<std::uint8_t>>{{3, 3}, {1, 2, 2}, {2, 2, 2}}) {
    if (!kThorough && operations[0] == 2) continue;
    const Setting setting{operations, true};
    EXPECT_EQ(faults_of(setting), std::set<std::string>()) << describe(setting);
  }
}

TEST(SharedWindowModel, AHostOfSeveral) {
  for (const std::vector<std::uint8_t>& operations :
       std::vector<std::vector<std::uint8_t>>{{3, 3}, {1, 3}, {3, 1}, {2, 2, 2}, {3, 2, 3}}) {
    for (const bool death : {false, true}) {
      for (const bool timeouts : {true, false}) {
        if (death && (!timeouts || (!kThorough && operations.size() > 2))) continue;
        const Setting setting{operations, death, Fault::none, timeouts, true};
        EXPECT_EQ(faults_of(setting), std::set<std::string>()) << describe(setting);
      }
    }
  }
}

// ---- controls: protocols with a fault each, which the search must find ----

TEST(SharedWindowModelControl, OneSlotARank) {
  EXPECT_FALSE(faults_of({{2, 2}, false, Fault::one_slot}).empty());
}

// Several ranks may see at the same moment that all words are there.
TEST(SharedWindowModelControl, CountersThatAreReset) {
  EXPECT_FALSE(faults_of({{2, 2, 2}, false, Fault::counters_are_reset}).empty());
}

TEST(SharedWindowModelControl, LeaderThatBringsBeforeTheResult) {
  EXPECT_FALSE(faults_of({{2, 2}, false, Fault::leader_brings_before_the_result, true, true}).empty());
}

TEST(SharedWindowModelControl, NobodyRingsForTheLeader) {
  EXPECT_TRUE(faults_of({{2, 2}, false, Fault::nobody_rings_for_the_leader, false, true})
                  .contains("a rank waits for ever"));
}

TEST(SharedWindowModelControl, SleeperThatDoesNotLookAgain) {
  EXPECT_TRUE(faults_of({{2, 2}, false, Fault::sleeper_does_not_look_again, false})
                  .contains("a rank waits for ever"));
}

TEST(SharedWindowModelControl, DepartureReadAfterTheWords) {
  EXPECT_TRUE(faults_of({{2, 2}, false, Fault::departure_is_read_last})
                  .contains("a rank is accused that brought its words"));
}

}  // namespace
}  // namespace syncbn::engines
