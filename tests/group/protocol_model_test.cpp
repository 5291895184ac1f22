// SPDX-License-Identifier: Apache-2.0

// A model check of agreed_sum: three ranks, every short history, and then every combination of what each of
// them may do next: the right call, any kind of wrong one, fail, or never call. The real AgreedSum runs; the
// engine is replaced by one that knows what a real one must not be trusted with.
//
// No scheduler is needed to meet all interleavings. Between two waits a rank's code depends on nothing but
// the sums that it was given (execute() shows it: it runs the code anew for each message, from those sums
// alone), and a sum is that of everybody's messages of one number, in whatever order they came. So by
// induction over the numbers every message and every sum is the same in all schedules. What a schedule does
// decide is who gives up at a deadline, and where: WhoGivesUpWhere enumerates that.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../outcome.h"
#include "base/rank_list.h"
#include "group/agreed_sum.h"
#include "group/rank_report.h"

namespace syncbn {
namespace {

using group::AgreedSum;
using Call = group::CallDescription;
using Words = std::vector<std::int64_t>;

constexpr int kRanks = 3;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kThorough = false;  // a sanitizer has seen the code after less
#else
constexpr bool kThorough = true;
#endif
constexpr std::size_t kLongest = kThorough ? 3 : 1;
template <class T>
using PerRank = std::array<T, kRanks>;

// ---- what a rank may do next ----

enum class Kind { call, fail, never };
struct Step {
  Kind kind = Kind::call;
  Call call;
  std::size_t words = 0;
  std::size_t what = 0;  // equal on ranks that mean the same call
};
using Steps = std::vector<Step>;

// The first four are the right calls that histories are made of: shorter and longer than the first room, and
// empty. The others each differ from the first in one thing.
const Steps kSteps = {
    {Kind::call, {"forward of layer 'bn1'", "C=1, eps=1e-05"}, 3},
    {Kind::call, {"forward of layer 'bn2'", "C=40, eps=1e-05"}, 70},
    {Kind::call, {"backward of layer 'bn2'", "C=40, eps=1e-05"}, 65},
    {Kind::call, {"all_reduce_sum", "values=0"}, 0},
    {Kind::call, {"forward of layer 'bn1'", "C=1, eps=0.001"}, 3},    // another option
    {Kind::call, {"backward of layer 'bn1'", "C=1, eps=1e-05"}, 3},   // another direction
    {Kind::call, {"forward of layer 'bn1'", "C=2, eps=1e-05"}, 6},    // another number of channels
    {Kind::call, {"forward of layer 'bn1'", "C=1, eps=1e-05"}, 200},  // another length, said by nothing else
    {Kind::fail, {"all_reduce_sum", "values=0"}, 0},  // beside the fourth, nothing but the flag tells
    {Kind::never, {}, 0},
};
constexpr std::size_t kRight = 4;
using Program = std::vector<std::size_t>;  // of kSteps
Steps steps_of(const Program& program) {
  Steps steps;
  for (const std::size_t s : program) {
    steps.push_back(kSteps[s]);
    steps.back().what = s;
  }
  return steps;
}

// What a rank brings: different for each rank, call and word.
std::int64_t word_of(int rank, std::size_t what, std::size_t i) {
  return (std::int64_t{1} << (45 + rank)) + static_cast<std::int64_t>(what * 1000 + i);
}

// ---- one rank, run anew up to its next message ----

struct Waiting {};  // what its code has to wait for is not there yet

// Where it can be told wrong things: the protocols that must be found faulty change what is sent.
using Tamper = std::function<std::size_t(const Step&, int message, std::span<std::int64_t> words)>;
std::size_t honest(const Step&, int, std::span<std::int64_t> words) { return words.size(); }

class Replay final : public Communicator {
 public:
  Replay(int rank, const std::vector<Words>& sums, std::optional<std::size_t> gives_up, const Tamper& tamper)
      : rank_(rank), sums_(sums), gives_up_(gives_up), tamper_(tamper) {}
  int rank() const override { return rank_; }
  int size() const override { return kRanks; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (buffer_.size() < words) buffer_.resize(words);
    return buffer_;
  }
  void start(std::size_t words) override {
    const std::size_t sent = tamper_(*step, message_of_step++, std::span(buffer_).first(words));
    message = buffer_;
    message.resize(sent);
    unanswered = true;
    words_ = words;
  }
  void wait(Deadline) override {
    if (count == gives_up_) throw TimeoutError("gave up");
    if (count == sums_.size()) throw Waiting();
    const Words& sum = sums_[count++];
    unanswered = false;
    std::copy_n(sum.begin(), std::min(words_, sum.size()), buffer_.begin());
  }
  void abort() noexcept override {}

  const Step* step = nullptr;
  int message_of_step = 0;
  std::size_t count = 0;  // of sums that it was given
  Words message;          // the last it sent
  bool unanswered = false;

 private:
  const int rank_;
  const std::vector<Words>& sums_;
  const std::optional<std::size_t> gives_up_;
  const Tamper& tamper_;
  Words buffer_;
  std::size_t words_ = 0;
};

struct Progress {
  std::string outcome;           // empty: it waits
  std::optional<Words> message;  // the one whose sum it has not been given
  std::size_t calls = 0;         // that returned
  bool wrong_sum = false;        // one of them with something else than the sum of that call
};

// `agreed`: after the history. `gives_up`: the number of the sum at which this rank's deadline passes.
Progress execute(AgreedSum agreed, int rank, const Steps& steps, const std::vector<Words>& sums,
                 std::optional<std::size_t> gives_up, const Tamper& tamper) {
  Replay communicator(rank, sums, gives_up, tamper);
  Progress result;
  const auto run = [&] {
    for (const Step& step : steps) {
      communicator.step = &step;
      communicator.message_of_step = 0;
      if (step.kind == Kind::never) return;
      if (step.kind == Kind::fail) {
        agreed.fail(communicator, step.call, "a reason", Deadline::max());
        throw InvalidArgument("a reason");
      }
      Words payload(step.words);
      for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = word_of(rank, step.what, i);
      agreed.sum(communicator, step.call, payload, Deadline::max());
      ++result.calls;
      for (std::size_t i = 0; i < payload.size(); ++i) {
        std::int64_t expected = 0;
        for (int r = 0; r < kRanks; ++r) expected += word_of(r, step.what, i);
        result.wrong_sum |= payload[i] != expected;
      }
    }
  };
  try {
    result.outcome = testing::outcome(run);
  } catch (const Waiting&) {
  }
  if (communicator.unanswered && communicator.count == sums.size()) result.message = communicator.message;
  return result;
}

// ---- all ranks ----

struct Course {
  PerRank<Progress> ranks;
  bool unequal = false;  // the engine was given messages of different lengths; the run ends there
};

Course run(const AgreedSum& history, const PerRank<Steps>& programs,
           const PerRank<std::optional<std::size_t>>& gives_up = {}, const Tamper& tamper = honest) {
  Course result;
  for (std::vector<Words> sums;;) {
    for (int r = 0; r < kRanks; ++r) {
      const auto i = static_cast<std::size_t>(r);
      result.ranks[i] = execute(history, r, programs[i], sums, gives_up[i], tamper);
    }
    const auto absent = [](const Progress& rank) { return !rank.message; };
    if (std::any_of(result.ranks.begin(), result.ranks.end(), absent)) return result;
    Words sum(result.ranks[0].message->size());
    for (const Progress& rank : result.ranks) {
      result.unequal |= rank.message->size() != sum.size();
      if (result.unequal) return result;
      std::transform(sum.begin(), sum.end(), rank.message->begin(), sum.begin(), std::plus<>());
    }
    sums.push_back(std::move(sum));
  }
}

Course run(const AgreedSum& history, const PerRank<Program>& programs,
           const PerRank<std::optional<std::size_t>>& gives_up = {}, const Tamper& tamper = honest) {
  PerRank<Steps> steps;
  std::transform(programs.begin(), programs.end(), steps.begin(), steps_of);
  return run(history, steps, gives_up, tamper);
}

AgreedSum after(const Program& history) {
  AgreedSum agreed;
  // What each rank knows is the same, so the history of rank 0 is everybody's. Its sums come from its own
  // messages: as if all ranks brought the same.
  class Threefold final : public Communicator {
   public:
    int rank() const override { return 0; }
    int size() const override { return kRanks; }
    std::span<std::int64_t> buffer(std::size_t words) override {
      buffer_.resize(words);
      return buffer_;
    }
    void start(std::size_t) override {
      for (std::int64_t& word : buffer_) word *= kRanks;
    }
    void wait(Deadline) override {}
    void abort() noexcept override {}

   private:
    Words buffer_;
  } communicator;
  for (const std::size_t s : history) {
    Words payload(kSteps[s].words);
    agreed.sum(communicator, kSteps[s].call, payload, Deadline::max());
  }
  return agreed;
}

// ---- what must come of it ----

bool same(std::size_t a, std::size_t b) {
  const Step &x = kSteps[a], &y = kSteps[b];
  return x.kind == y.kind && x.words == y.words && x.call.subject == y.call.subject &&
         x.call.settings == y.call.settings;
}

using Next = PerRank<std::size_t>;
std::vector<int> ranks_where(const std::function<bool(std::size_t)>& condition) {
  std::vector<int> ranks;
  for (std::size_t r = 0; r < kRanks; ++r) {
    if (condition(r)) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

// Empty: it waits for a rank that never calls.
std::string expected_outcome(const Next& next, std::size_t rank, std::vector<std::string>& told) {
  const auto kind = [&](std::size_t r) { return kSteps[next[r]].kind; };
  if (kind(rank) == Kind::never) return "ok";
  if (!ranks_where([&](std::size_t r) { return kind(r) == Kind::never; }).empty()) return "";
  if (kind(rank) == Kind::fail) return "InvalidArgument: a reason";
  bool differ = false;
  for (std::size_t r = 0; r < kRanks; ++r) {
    if (kind(r) != Kind::call) continue;
    differ |= !same(next[r], next[rank]);
    const auto party =
        ranks_where([&](std::size_t q) { return kind(q) == Kind::call && same(next[q], next[r]); });
    told.push_back(fmt::format("{} ... {}", base::rank_list(party), kSteps[next[r]].call.subject));
  }
  const auto failed = ranks_where([&](std::size_t r) { return kind(r) == Kind::fail; });
  if (!failed.empty()) {
    if (!differ) told.clear();
    told.push_back(fmt::format("{} ... a reason", base::rank_list(failed)));
  }
  if (differ) return "MismatchError: ";
  if (!failed.empty()) return "PeerError: ";
  told.clear();
  return "ok";
}

// "" or what is wrong.
std::string fault(const Course& actual, const Next& next) {
  if (actual.unequal) return "the engine saw unequal lengths";
  for (std::size_t r = 0; r < kRanks; ++r) {
    if (actual.ranks[r].wrong_sum) return fmt::format("rank {} has a wrong sum and no error", r);
    std::vector<std::string> told;
    const std::string expected = expected_outcome(next, r, told);
    const std::string& outcome = actual.ranks[r].outcome;
    const bool right =
        expected == "ok" || expected.empty() ? outcome == expected : outcome.starts_with(expected);
    if (!right) return fmt::format("rank {}: '{}', expected '{}'", r, outcome, expected);
    for (const std::string& fact : told) {
      if (!testing::tells(outcome, fact)) return fmt::format("rank {}: '{}' lacks '{}'", r, outcome, fact);
    }
    const bool verdict = expected.starts_with("Mismatch") || expected.starts_with("Peer");
    for (std::size_t q = 0; q < r && verdict; ++q) {
      if (kSteps[next[q]].kind == Kind::call && actual.ranks[q].outcome != outcome)
        return fmt::format("ranks {} and {} were told differently", q, r);
    }
  }
  return "";
}

std::string describe(const Program& history, const Next& next) {
  return fmt::format("after steps [{}], next {}, {}, {}", fmt::join(history, ", "), next[0], next[1],
                     next[2]);
}

template <class Visit>
void for_each_history(std::size_t longest, Visit visit) {
  std::vector<Program> histories = {{}};
  for (std::size_t i = 0; i < histories.size(); ++i) {
    visit(histories[i]);
    if (histories[i].size() == longest) continue;
    for (std::size_t s = 0; s < kRight; ++s) {
      Program longer = histories[i];
      longer.push_back(s);
      histories.push_back(longer);
    }
  }
}

template <class Visit>
void for_each_next(Visit visit) {
  for (std::size_t a = 0; a < kSteps.size(); ++a) {
    for (std::size_t b = 0; b < kSteps.size(); ++b) {
      for (std::size_t c = 0; c < kSteps.size(); ++c) visit(Next{a, b, c});
    }
  }
}

// The faults of a protocol over all histories of up to `longest` calls, by their kind, with one example each.
std::map<std::string, std::string> faults(std::size_t longest, const Tamper& tamper,
                                          std::size_t* runs = nullptr) {
  std::map<std::string, std::string> found;
  for_each_history(longest, [&](const Program& history) {
    const AgreedSum agreed = after(history);
    for_each_next([&](const Next& next) {
      const Course result = run(agreed, PerRank<Program>{{{next[0]}, {next[1]}, {next[2]}}}, {}, tamper);
      const std::string text = fault(result, next);
      if (runs != nullptr) ++*runs;
      if (text.empty()) return;
      const std::string kind = result.unequal                                ? "unequal lengths"
                               : text.find("wrong sum") != std::string::npos ? "silent"
                                                                             : "other";
      found.try_emplace(kind, text + "; " + describe(history, next));
    });
  });
  return found;
}

// Every program of three ranks whose first difference comes after up to three calls: what would follow is
// never reached, for every rank has its error then or waits for one that never calls.
TEST(ProtocolModel, EveryDifferenceAfterEveryHistory) {
  std::size_t runs = 0;
  for (const auto& [kind, example] : faults(kLongest, honest, &runs))
    ADD_FAILURE() << kind << ": " << example;
  EXPECT_EQ(runs, (kThorough ? 85u : 5u) * 1000u);
}

// Long ones, chosen at random: what the lengths are predicted from grows with them.
TEST(ProtocolModel, LongHistories) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 2000; ++trial) {
    Program history(random() % 60);
    for (std::size_t& s : history) s = random() % kRight;
    Next next{};
    for (std::size_t& s : next) s = random() % kSteps.size();
    const Course result = run(after(history), PerRank<Program>{{{next[0]}, {next[1]}, {next[2]}}});
    EXPECT_EQ(fault(result, next), "") << describe(history, next);
  }
}

// Ranks may give up at any message of theirs, alone or together. What they brought stays in its sum. Nobody
// gets a wrong sum, nobody is accused in whom nothing is wrong, and whoever gets a verdict gets the same as
// everybody would without deadlines.
TEST(ProtocolModel, WhoGivesUpWhere) {
  const std::size_t fail = 8, never = 9;
  std::vector<Program> programs = {{never}, {fail}};
  for (const std::size_t first : {0u, 1u}) {
    for (const std::size_t second : {std::size_t{0}, std::size_t{1}, fail, never})
      programs.push_back({first, second});
  }
  std::vector<std::optional<std::size_t>> moments = {std::nullopt, 0, 1, 2, 3};
  if (!kThorough) moments.resize(3);
  std::size_t gave_up = 0, late_success = 0;
  for (const Program& a : programs) {
    for (const Program& b : programs) {
      for (const Program& c : programs) {
        const Course patient = run({}, PerRank<Program>{a, b, c});
        for (const auto& x : moments) {
          for (const auto& y : moments) {
            for (const auto& z : moments) {
              const Course result = run({}, PerRank<Program>{a, b, c}, {x, y, z});
              ASSERT_FALSE(result.unequal);
              for (std::size_t r = 0; r < kRanks; ++r) {
                const Progress& rank = result.ranks[r];
                ASSERT_FALSE(rank.wrong_sum);
                ASSERT_LE(rank.calls, patient.ranks[r].calls);
                if (rank.outcome == "TimeoutError: gave up") {
                  ++gave_up;
                } else if (!rank.outcome.empty()) {
                  ASSERT_EQ(rank.outcome, patient.ranks[r].outcome);
                }
                if (rank.outcome.empty() && rank.calls > 0) ++late_success;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GT(gave_up, 1000u);       // control: deadlines did pass
  EXPECT_GT(late_success, 1000u);  // control: ranks did go on where another had given up
}

// ---- layers of the same name ----

// What a rank does, in letters. A constructs a layer (or copies another one), a makes a training call of the
// layer, (ab) makes a JointCall of two layers, ~a evaluates a layer. On every rank a letter is what the
// program's author means by it. The characters of `names` are the names of A, B and so on; layers beyond them
// have no name.
using Letters = std::string;

// The rank's calls. The numbers of different ranks have nothing in common.
Steps calls_of(const Letters& program, int rank, std::string_view names) {
  std::map<char, group::LayerReference> layers;
  std::int64_t last = 1000 * rank;
  Steps steps;
  bool joint = false;
  for (std::size_t i = 0; i < program.size(); ++i) {
    const char c = program[i];
    if (c >= 'A' && c <= 'Z') {
      const auto letter = static_cast<std::size_t>(c - 'A');
      layers[c] = {letter < names.size() ? names.substr(letter, 1) : std::string_view(), ++last};
    } else if (c == '~') {
      ++i;  // an evaluation makes no sum
    } else if (c == '(' || c == ')') {
      joint = c == '(';
      if (joint) steps.push_back({Kind::call, {"", "C=1"}, 3, 0});
    } else {
      if (!joint) steps.push_back({Kind::call, {"", "C=1"}, 3, 0});
      Step& step = steps.back();
      const group::LayerReference& layer = layers.at(static_cast<char>(c - 'a' + 'A'));
      step.call.subject += fmt::format("forward of {}; ", layer.name);
      step.call.layers.push_back(layer);
      step.what = 32 * step.what + static_cast<std::size_t>(c - 'a' + 1);
    }
  }
  return steps;
}

// From which call on the ranks' programs are not the same but for the names of their variables: the first
// calls map the layers of one rank to those of another, and this map must keep every call, the names and the
// order of construction. 0: they are the same.
std::size_t first_difference(const Steps& a, const Steps& b) {
  std::vector<std::pair<group::LayerReference, group::LayerReference>> map;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const auto &of_a = a[i].call.layers, &of_b = b[i].call.layers;
    if (of_a.size() != of_b.size()) return i + 1;
    for (std::size_t l = 0; l < of_a.size(); ++l) {
      map.emplace_back(of_a[l], of_b[l]);
      for (const auto& [x, y] : map) {
        if (of_a[l].name != of_b[l].name) return i + 1;
        if (x.name == of_a[l].name && (x.number <=> of_a[l].number) != (y.number <=> of_b[l].number))
          return i + 1;
      }
    }
  }
  return 0;
}

struct LayersOutcome {
  std::size_t error = 0;  // number of the call that is a MismatchError on every rank; 0: none
  bool mixed = false;     // a sum of different layers came back without an error
  bool same_text = true;  // on every rank
  std::string text;
};

LayersOutcome run_layers(const PerRank<Steps>& programs, const Tamper& tamper = honest) {
  const Course course = run({}, programs, {}, tamper);
  LayersOutcome result;
  result.text = course.ranks[0].outcome;
  for (const Progress& rank : course.ranks) {
    result.mixed |= rank.wrong_sum;
    result.same_text &= rank.outcome == result.text && rank.calls == course.ranks[0].calls;
    if (rank.outcome.starts_with("MismatchError")) result.error = rank.calls + 1;
  }
  return result;
}

struct LayersCase {
  const char* what;
  PerRank<Letters> programs;
  std::size_t error = 0;       // in this call
  std::size_t mixed_from = 0;  // the call from which sums may be mixed, as the message names it
  bool mixed = false;          // some sum was mixed
  std::string_view names = "";
};

TEST(LayersModel, Situations) {
  const std::vector<LayersCase> cases = {
      {"one rank builds more", {"XABYab", "ABab", "ABab"}},
      {"one rank builds more between its calls", {"ABab", "ABaXb", "ABab"}},
      {"one rank copies a layer that never trains", {"ABab", "ABCab~cab", "ABabab"}},
      {"layers that are first used in evaluation", {"AB~bab", "ABab", "AB~a~bab"}},
      {"layers that are made anew in each step", {"AaBbCc", "AXaBbCc", "AaBbCc"}},
      {"each rank names its layers, and builds them in another order",
       {"ABab", "BAab", "ABab"},
       0,
       0,
       false,
       "AB"},
      {"construction in another order", {"ABab", "BAab", "ABab"}, 2, 1},
      {"two layers in another order", {"ABab", "ABba", "ABab"}, 2, 1, true},
      {"the same, with one name", {"ABab", "ABba", "ABab"}, 2, 1, true, "xx"},
      {"the last two of three", {"ABCabc", "ABCacb", "ABCabc"}, 3, 2, true},
      {"the last two of three, after steps of the first", {"ABCaaabc", "ABCaaacb", "ABCaaabc"}, 5, 4, true},
      {"another order in a later step", {"ABabab", "ABabba", "ABabab"}, 3},
      {"a teacher before its student, in another order in a later step", {"ABbaba", "ABbaab", "ABbaba"}, 3},
      {"a layer is left out", {"ABCabcabc", "ABCacabc", "ABCabcabc"}, 3, 1, true},
      {"a layer is left out in a later step", {"ABCabcabc", "ABCabcac", "ABCabcabc"}, 5},
      {"a copy in place of the layer, on one rank", {"AaBb", "Aaa", "Aaa"}, 2, 1},
      {"a layer that is made anew on one rank", {"AaBbCc", "Aaaa", "Aaaa"}, 2, 1},
      {"a JointCall in another order", {"AB(ab)", "AB(ba)", "AB(ab)"}, 1},
      {"a JointCall in another order, later", {"AB(ab)(ab)", "AB(ab)(ba)", "AB(ab)(ab)"}, 2, 1},
      {"a layer before a JointCall", {"ABa(ab)", "ABb(ab)", "ABa(ab)"}, 2, 1, true},
      {"layers that never both take part", {"ABaa", "ABbb", "ABaa"}, 0, 0, true},
  };
  for (const LayersCase& c : cases) {
    SCOPED_TRACE(c.what);
    PerRank<Steps> programs;
    std::size_t shortest = SIZE_MAX;
    for (std::size_t r = 0; r < kRanks; ++r) {
      programs[r] = calls_of(c.programs[r], static_cast<int>(r), c.names);
      shortest = std::min(shortest, programs[r].size());
    }
    for (Steps& steps : programs) steps.resize(shortest);
    const LayersOutcome result = run_layers(programs);
    EXPECT_EQ(result.error, c.error) << result.text;
    EXPECT_EQ(result.mixed, c.mixed);
    EXPECT_TRUE(result.same_text);
    EXPECT_EQ(testing::tells(result.text, fmt::format("from call {} on", c.mixed_from)), c.mixed_from != 0)
        << result.text;
  }
}

// All programs of `length` calls, each of them one of `calls`.
std::vector<Letters> programs_of(const std::vector<Letters>& calls, std::size_t length) {
  std::vector<Letters> programs = {""};
  for (std::size_t i = 0; i < length; ++i) {
    std::vector<Letters> longer;
    for (const Letters& program : programs) {
      for (const Letters& call : calls) longer.push_back(program + call);
    }
    programs = longer;
  }
  return programs;
}

// Two ranks do the same, and the third rank another program: every pair of programs of `length` calls, and
// every order of construction. Returns where the outcome is not that of first_difference(), by the kind of
// the fault, with one example each.
std::map<std::string, std::string> layer_faults(const Tamper& tamper, std::size_t length,
                                                std::size_t* runs = nullptr) {
  struct Space {
    Letters constructed;
    std::vector<Letters> calls;
    std::size_t length;
    std::string_view names;
  };
  const std::vector<Space> spaces = {{"ABC", {"a", "b", "c"}, length, ""},
                                     {"ABC", {"a", "b", "c"}, length - 1, "xxy"},
                                     {"AB", {"a", "b", "(ab)", "(ba)"}, length - 1, ""}};
  std::map<std::string, std::string> found;
  for (const Space& space : spaces) {
    const std::vector<Letters> programs = programs_of(space.calls, space.length);
    for (const Letters& of_two : programs) {
      const Steps a = calls_of(space.constructed + of_two, 0, space.names);
      const Steps c = calls_of(space.constructed + of_two, 2, space.names);
      Letters order = space.constructed;
      do {
        for (const Letters& of_one : programs) {
          const Steps b = calls_of(order + of_one, 1, space.names);
          const LayersOutcome result = run_layers({a, b, c}, tamper);
          const std::size_t expected = first_difference(a, b);
          if (runs != nullptr) ++*runs;
          if (result.error == expected && result.same_text) continue;
          const bool accused = result.error != 0 && (expected == 0 || result.error < expected);
          found.try_emplace(result.error == expected ? "told differently"
                            : accused                ? "accused"
                                                     : "missed",
                            fmt::format("{}{} against {}{}: call {}, expected {}; {}", space.constructed,
                                        of_two, order, of_one, result.error, expected, result.text));
        }
      } while (std::next_permutation(order.begin(), order.end()));
    }
  }
  return found;
}

// Ranks agree as long as their programs are the same but for the names of variables, and not a call longer.
TEST(LayersModel, EveryPairOfPrograms) {
  std::size_t runs = 0;
  for (const auto& [kind, example] : layer_faults(honest, kThorough ? 4 : 3, &runs))
    ADD_FAILURE() << kind << ": " << example;
  EXPECT_EQ(runs,
            kThorough ? 81u * 6 * 81 + 27 * 6 * 27 + 64 * 2 * 64 : 27u * 6 * 27 + 9 * 6 * 9 + 16 * 2 * 16);
}

// Control: rules that look right. Each gives one layer's place another code.
Tamper with_code(std::function<std::int64_t(const group::LayerReference&, std::int64_t code)> rule) {
  return [rule = std::move(rule)](const Step& step, int message, std::span<std::int64_t> words) {
    if (message == 0 && step.call.layers.size() == 1) {
      words[12] = rule(step.call.layers.front(), words[12]);
      words[13] = words[12] * words[12];
    }
    return words.size();
  };
}

TEST(LayersModelControl, NumbersByConstruction) {
  const auto found =
      layer_faults(with_code([](const auto& layer, std::int64_t) { return layer.number % 1000; }), 2);
  EXPECT_TRUE(found.contains("accused"));  // where another layer has been constructed before
}

TEST(LayersModelControl, NumbersByFirstSums) {
  const auto found =
      layer_faults(with_code([](const auto&, std::int64_t code) { return code % 2 == 0 ? 0 : code; }), 2);
  EXPECT_TRUE(found.contains("missed"));  // two layers in another order
}

TEST(LayersModelControl, ThePlaceAtTheFirstSumForEver) {
  std::map<std::int64_t, std::int64_t> first;
  const auto kept = [&](const group::LayerReference& layer, std::int64_t code) {
    if (code % 2 == 0) first[layer.number] = code;
    return first[layer.number];
  };
  const PerRank<Steps> programs = {calls_of("ABbaba", 0, ""), calls_of("ABbaab", 1, ""),
                                   calls_of("ABbaba", 2, "")};
  EXPECT_EQ(run_layers(programs).error, 3u);
  const LayersOutcome kept_for_ever = run_layers(programs, with_code(kept));
  EXPECT_EQ(kept_for_ever.error, 0u);  // at their first sums a and b both were the first by construction
  EXPECT_TRUE(kept_for_ever.mixed);
}

// ---- controls: protocols with a fault each, which the check must find ----

TEST(ProtocolModelControl, LengthOfTheLocalCall) {
  const auto found = faults(1, [](const Step& step, int message, std::span<std::int64_t> words) {
    return message == 0 ? 14 + step.words : words.size();
  });
  EXPECT_TRUE(found.contains("unequal lengths"));
}

TEST(ProtocolModelControl, TextsNotCompared) {
  const auto found = faults(1, [](const Step&, int message, std::span<std::int64_t> words) {
    if (message == 0) std::fill_n(words.begin() + 8, 4, 0);
    return words.size();
  });
  EXPECT_TRUE(found.contains("silent"));
}

TEST(ProtocolModelControl, FailureNotTold) {
  const auto found = faults(1, [](const Step&, int message, std::span<std::int64_t> words) {
    if (message == 0) words[1] = 0;
    return words.size();
  });
  EXPECT_FALSE(found.empty());
}

TEST(ProtocolModelControl, SquaresNotSent) {
  const auto found = faults(1, [](const Step&, int message, std::span<std::int64_t> words) {
    if (message == 0) words[3] += 1;  // of the first field
    return words.size();
  });
  EXPECT_TRUE(found.contains("other"));  // right programs are accused
}

}  // namespace
}  // namespace syncbn
