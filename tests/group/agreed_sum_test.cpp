// SPDX-License-Identifier: Apache-2.0

// The protocol of agreed_sum on ranks as threads: right programs are never accused, wrong calls always, on
// every rank, and the engine never sees unequal lengths.
#include "group/agreed_sum.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "../ranks.h"

namespace syncbn {
namespace {

using group::AgreedSum;
using Call = group::CallDescription;
using testing::expect_error;
using testing::on_ranks;
using testing::soon;

constexpr std::size_t kHeader = 14;  // words before the payload, told in agreed_sum.cpp
constexpr std::size_t kFirstRoom = 64;
constexpr std::size_t kSlot = 64;

struct Step {
  Call call;
  std::size_t words = 0;
  bool fails = false;
};
using Program = std::vector<Step>;

// What a rank's payload holds: different on every rank, in every word, with the sign bit in use.
std::int64_t word_of(int rank, std::size_t i) {
  return (rank % 2 == 0 ? -1 : 1) * (std::int64_t{1} << 40) * (rank + 1) + static_cast<std::int64_t>(i);
}

struct Outcome {
  std::vector<std::string> outcomes;               // by rank
  std::vector<std::vector<std::size_t>> lengths;   // by rank, of each message
  std::vector<std::vector<std::size_t>> messages;  // by rank, after each good call
};

// Each rank runs its program up to the first error.
Outcome run(const std::vector<Program>& programs) {
  const int size = static_cast<int>(programs.size());
  Outcome result;
  result.lengths.resize(programs.size());
  result.messages.resize(programs.size());
  const auto world = std::make_shared<engines::ThreadWorld>(size);
  result.outcomes.resize(programs.size());
  run_ranks(size, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    testing::CountingCommunicator communicator(
        world->connect({"all", testing::first_ranks(size), 0}, rank, soon()), result.lengths[r]);
    AgreedSum agreed;
    result.outcomes[r] = testing::outcome([&] {
      for (const Step& step : programs[r]) {
        if (step.fails) {
          agreed.fail(communicator, step.call, "its argument is wrong", soon());
          throw InvalidArgument("its argument is wrong");
        }
        std::vector<std::int64_t> payload(step.words);
        for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = word_of(rank, i);
        agreed.sum(communicator, step.call, payload, soon());
        for (std::size_t i = 0; i < payload.size(); ++i) {
          std::int64_t expected = 0;
          for (int peer = 0; peer < size; ++peer) expected += word_of(peer, i);
          ASSERT_EQ(payload[i], expected) << "rank " << rank << ", word " << i << " of " << step.call.subject;
        }
        result.messages[r].push_back(result.lengths[r].size());
      }
    });
  });
  return result;
}

Step step(const std::string& subject, const std::string& settings, std::size_t words) {
  return {{subject, settings}, words, false};
}

// A training loop: `layers` layers forward and backward again, `rounds` times.
Program training(std::mt19937& random, int layers, int rounds) {
  const std::vector<std::size_t> sizes = {0, 1, 4, 21, 63, 64, 65, 200, 1344};
  Program round;
  for (int i = 0; i < layers; ++i) {
    const std::size_t words = sizes[random() % sizes.size()];
    round.push_back(
        step(fmt::format("forward of layer 'bn{}'", i), fmt::format("C={}, eps=1e-05", words), words));
  }
  for (int i = layers - 1; i >= 0; --i) {
    Step backward = round[static_cast<std::size_t>(i)];
    backward.call.subject = fmt::format("backward of layer 'bn{}'", i);
    round.push_back(backward);
  }
  Program program;
  for (int r = 0; r < rounds; ++r) program.insert(program.end(), round.begin(), round.end());
  return program;
}

TEST(AgreedSum, RightProgramsAreNeverAccusedAndSettleAtOneMessageACall) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 24; ++trial) {
    const int size = 2 + trial % 7;
    const int layers = 1 + static_cast<int>(random() % 5);
    SCOPED_TRACE(fmt::format("trial {}, {} ranks, {} layers", trial, size, layers));
    const Program program = training(random, layers, 3);
    const Outcome result = run(std::vector<Program>(static_cast<std::size_t>(size), program));
    for (std::size_t r = 0; r < result.outcomes.size(); ++r) {
      EXPECT_EQ(result.outcomes[r], "ok");
      EXPECT_EQ(result.lengths[r], result.lengths[0]);
      ASSERT_EQ(result.messages[r].size(), program.size());
    }
    // From the second round's second call on everything is predicted: each message is one call, of its exact
    // length.
    for (std::size_t i = 2 * static_cast<std::size_t>(layers) + 1; i < program.size(); ++i) {
      EXPECT_EQ(result.messages[0][i] - result.messages[0][i - 1], 1u) << "call " << i + 1;
      EXPECT_EQ(result.lengths[0][result.messages[0][i] - 1], kHeader + program[i].words) << "call " << i + 1;
    }
  }
}

TEST(AgreedSum, LengthsBeforeAnyHistory) {
  const Program program = {step("a", "", 10), step("b", "", 100), step("a", "", 10), step("b", "", 100)};
  const Outcome result = run({program, program});
  // a in the first room; b in a first room, and its rest; a: what follows b is unknown; b: it followed a
  // before.
  const std::vector<std::size_t> expected = {kHeader + kFirstRoom, kHeader + kFirstRoom, 100 - kFirstRoom,
                                             kHeader + kFirstRoom, kHeader + 100};
  EXPECT_EQ(result.lengths[0], expected);
  EXPECT_EQ(result.lengths[1], expected);
}

// A layer that is made anew for each call has the room of the layer before it: one message a call. Control: a
// layer with another name is another call, of an unknown length.
TEST(AgreedSum, ALayerThatIsMadeAnewInEachStepHasNoNewLength) {
  const auto lengths = [](bool named) {
    std::vector<Program> programs(2);
    for (int rank = 0; rank < 2; ++rank) {
      for (int call = 0; call < 6; ++call) {
        Step made = step(fmt::format("forward of layer '{}'", named ? call : 0), "C=4", 100);
        made.call.layers = {{"", 1000 * rank + call}};
        programs[static_cast<std::size_t>(rank)].push_back(made);
      }
    }
    const Outcome result = run(programs);
    EXPECT_EQ(result.outcomes, std::vector<std::string>(2, "ok"));
    return result.lengths[0];
  };
  const std::vector<std::size_t> first = {kHeader + kFirstRoom, 100 - kFirstRoom}, next = {kHeader + 100};
  std::vector<std::size_t> expected = first;
  expected.insert(expected.end(), first.begin(), first.end());  // what follows a first call is unknown
  for (int call = 2; call < 6; ++call) expected.insert(expected.end(), next.begin(), next.end());
  EXPECT_EQ(lengths(false), expected);
  EXPECT_GT(lengths(true).size(), expected.size());
}

struct Wrong {
  const char* kind;
  std::function<void(Program&, std::size_t)> make;  // in this program, from this call on
};

const std::vector<Wrong>& wrongs() {
  static const std::vector<Wrong> all = {
      {"another layer", [](Program& p, std::size_t i) { p[i].call.subject = "forward of layer 'other'"; }},
      {"another place",
       [](Program& p, std::size_t i) {
         p[i].call.layers = {{"", 1}, {"", 2}};
       }},
      {"another option", [](Program& p, std::size_t i) { p[i].call.settings += ", momentum=0.5"; }},
      {"another length, one more", [](Program& p, std::size_t i) { ++p[i].words; }},
      {"another length, a field's width more",
       [](Program& p, std::size_t i) { p[i].words += std::size_t{1} << 23; }},
      {"nothing to bring", [](Program& p, std::size_t i) { p[i].words = p[i].words == 0 ? 1 : 0; }},
      {"a call left out",
       [](Program& p, std::size_t i) { p.erase(p.begin() + static_cast<std::ptrdiff_t>(i)); }},
      {"two calls swapped", [](Program& p, std::size_t i) { std::swap(p[i], p[i + 1]); }},
      {"another option in another layer",
       [](Program& p, std::size_t i) {
         p[i].call = {"forward of layer 'other'", "C=1, momentum=0.5"};
       }},
  };
  return all;
}

// Control: with all_agree() made true, and with room taken from the payload's size, this test fails.
TEST(AgreedSum, EveryWrongCallIsNamedOnEveryRank) {
  std::mt19937 random(2);
  for (std::size_t w = 0; w < wrongs().size(); ++w) {
    for (int trial = 0; trial < 3; ++trial) {
      const std::size_t size = 2 + random() % 6;
      const std::size_t culprit = random() % size;
      const Program right = training(random, 3, 3);
      const std::size_t at = random() % (right.size() - 2);
      SCOPED_TRACE(fmt::format("{}, trial {}, rank {} of {}, call {}", wrongs()[w].kind, trial, culprit, size,
                               at + 1));
      std::vector<Program> programs(size, right);
      wrongs()[w].make(programs[culprit], at);
      const Outcome result = run(programs);
      for (std::size_t r = 0; r < size; ++r) {
        expect_error<MismatchError>(result.outcomes[r], {});
        EXPECT_EQ(result.outcomes[r], result.outcomes[0]);
        EXPECT_EQ(result.lengths[r], result.lengths[0]);
        EXPECT_EQ(result.lengths[r].back(), kSlot * size);
        EXPECT_EQ(result.messages[r].size(), at);
      }
      if (size > 2) {  // with two, nobody can say who is wrong
        expect_error<MismatchError>(result.outcomes[0], {fmt::format("rank {} ... ranks", culprit)});
      }
    }
  }
}

TEST(AgreedSum, AFailedRankIsNamedOnEveryOther) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 8; ++trial) {
    const std::size_t size = 2 + random() % 6;
    const std::size_t culprit = random() % size;
    const Program right = training(random, 2, 3);
    const std::size_t at = random() % right.size();
    SCOPED_TRACE(fmt::format("trial {}, rank {} of {}, call {}", trial, culprit, size, at + 1));
    std::vector<Program> programs(size, right);
    programs[culprit][at].fails = true;
    const Outcome result = run(programs);
    for (std::size_t r = 0; r < size; ++r) {
      if (r == culprit) {
        expect_error<InvalidArgument>(result.outcomes[r], {"its argument is wrong"});
      } else {
        expect_error<PeerError>(result.outcomes[r],
                                {fmt::format("rank {} ... its argument is wrong", culprit)});
      }
      EXPECT_EQ(result.lengths[r], result.lengths[0]);
    }
  }
}

TEST(AgreedSum, ADifferenceBetweenTheOthersComesBeforeAFailedRank) {
  std::vector<Program> programs(4, {step("forward of layer 'bn1'", "C=2", 8)});
  programs[1][0].fails = true;
  programs[3][0].call.settings = "C=4";
  const Outcome result = run(programs);
  for (const std::size_t r : {0u, 2u, 3u}) {
    expect_error<MismatchError>(result.outcomes[r],
                                {"rank 3 ... forward of layer 'bn1' ... C=4 ... ranks 0, 2 ... forward of "
                                 "layer 'bn1' ... C=2 ... rank 1 ... its argument is wrong"});
  }
  expect_error<InvalidArgument>(result.outcomes[1], {"its argument is wrong"});
}

// Without payload nothing but the flag tells a failed rank's header from the others'.
// Control: with the flag left out of the header, the others return and this test fails.
TEST(AgreedSum, AFailedRankOfACallWithoutPayload) {
  std::vector<Program> programs(3, {step("a call", "", 0)});
  programs[1][0].fails = true;
  const Outcome result = run(programs);
  for (const std::size_t r : {0u, 2u}) {
    expect_error<PeerError>(result.outcomes[r], {"rank 1 ... its argument is wrong"});
  }
}

TEST(AgreedSum, AllRanksMayFail) {
  std::vector<Program> programs(3, {step("forward of layer 'bn1'", "C=2", 8)});
  for (Program& program : programs) program[0].fails = true;
  for (const std::string& outcome : run(programs).outcomes) {
    expect_error<InvalidArgument>(outcome, {"its argument is wrong"});
  }
}

// One rank of very many, all others alike: their sum is known without running them.
class CrowdCommunicator final : public Communicator {
 public:
  static constexpr int kSize = 1 << 16;  // as many as the header is made for
  /// `odd`: the first message of the one that differs; without it this rank is that one.
  explicit CrowdCommunicator(std::vector<std::int64_t> odd = {}) : odd_(std::move(odd)) {}
  int rank() const override { return 0; }
  int size() const override { return kSize; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (words_.size() < words) words_.resize(words);
    return words_;
  }
  void start(std::size_t words) override {
    sent_ = words;
    if (++messages_ > 1) return;
    if (odd_.empty()) odd_.assign(words_.begin(), words_.begin() + static_cast<std::ptrdiff_t>(words));
    for (std::size_t i = 0; i < words; ++i)
      words_[i] = words_[i] * (kSize - 1) + (i < odd_.size() ? odd_[i] : 0);
  }
  void wait(Deadline) override {
    if (messages_ > 1) throw PeerError(fmt::format("second message, {} words", sent_));
  }
  void abort() noexcept override {}
  const std::vector<std::int64_t>& first_message() const { return odd_; }

 private:
  std::vector<std::int64_t> odd_;
  std::vector<std::int64_t> words_;
  std::size_t sent_ = 0;
  int messages_ = 0;
};

// Where the largest field differs by one on one of 65,536 ranks, the two sides of the comparison differ in
// their 62nd bit. Control: with double in place of __int128, the second expectation fails.
TEST(AgreedSum, TheComparisonIsExactForTheLargestWorld) {
  std::vector<std::int64_t> payload((std::size_t{1} << 23) - 1);
  const Call call{"all_reduce_sum", ""};
  const auto rest = fmt::format("PeerError: second message, {} words", payload.size() - kFirstRoom);
  const auto table = fmt::format("PeerError: second message, {} words", CrowdCommunicator::kSize * kSlot);
  CrowdCommunicator alike;
  EXPECT_EQ(testing::outcome([&] { AgreedSum().sum(alike, call, payload, soon()); }), rest);
  CrowdCommunicator crowd(alike.first_message());
  const std::span<std::int64_t> shorter = std::span(payload).first(payload.size() - 1);
  EXPECT_EQ(testing::outcome([&] { AgreedSum().sum(crowd, call, shorter, soon()); }), table);
}

class LosingCommunicator final : public testing::CountingCommunicator {
 public:
  using CountingCommunicator::CountingCommunicator;
  void start(std::size_t words) override {
    if (rank() == 1) std::ranges::fill(buffer(words).first(words), 0);
    CountingCommunicator::start(words);
  }
};

TEST(AgreedSum, AnEngineThatLosesARankIsFoundOut) {
  const auto world = std::make_shared<engines::ThreadWorld>(3);
  run_ranks(3, [&](int rank) {
    std::vector<std::size_t> lengths;
    LosingCommunicator communicator(world->connect({"all", {0, 1, 2}, 0}, rank, soon()), lengths);
    std::vector<std::int64_t> payload(4);
    expect_error<PeerError>(
        [&] {
          AgreedSum().sum(communicator, {"a", "b"}, payload, soon());
        },
        {"2 ranks", "3"});
  });
}

// Programs that never repeat themselves: what is remembered is dropped on all ranks at the same call.
TEST(AgreedSum, EverNewCallsStayRight) {
  Program program;
  for (std::size_t i = 0; i < 4200; ++i) program.push_back(step(fmt::format("call {}", i), "", i % 3));
  const Outcome result = run({program, program});
  EXPECT_EQ(result.outcomes[0], "ok");
  EXPECT_EQ(result.outcomes[1], "ok");
  EXPECT_EQ(result.lengths[0], result.lengths[1]);
}

}  // namespace
}  // namespace syncbn
