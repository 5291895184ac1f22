// SPDX-License-Identifier: Apache-2.0

// What ranks read when their calls differ
#include "group/rank_report.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "../ranks.h"
#include "base/rank_list.h"
#include "group/places.h"

namespace syncbn::group {
namespace {

using testing::expect_error;
using testing::tells;

RankReport call(const std::string& subject, const std::string& settings) {
  return {{0, 17, 40, 1}, subject, settings};
}

std::string verdict(const std::vector<RankReport>& ranks) {
  return testing::outcome([&] { throw_verdict(ranks); });
}

constexpr const char* kSettings = "C=64, input=float32, eps={}, momentum=0.1";

TEST(Verdict, OneOptionDiffers) {
  std::vector<RankReport> ranks(4,
                                call("forward of layer 'bn1'", fmt::format(fmt::runtime(kSettings), 1e-5)));
  ranks[2] = call("forward of layer 'bn1'", fmt::format(fmt::runtime(kSettings), 1e-3));
  expect_error<MismatchError>(verdict(ranks), {"rank 2 ... forward of layer 'bn1' ... eps=0.001 ... ranks "
                                               "0-1, 3 ... forward of layer 'bn1' ... eps=1e-05"});
}

TEST(Verdict, AnOptionIsMissing) {
  const std::vector<RankReport> ranks = {call("a", "C=1, relu=true"), call("a", "C=1")};
  expect_error<MismatchError>(verdict(ranks), {"rank 0 ... a ... relu=true ... rank 1 ... a"});
}

TEST(Verdict, OnlyTheLayerDiffers) {
  const std::vector<RankReport> ranks = {call("forward of layer 'bn1'", "C=1"),
                                         call("backward of layer 'bn2'", "C=1")};
  expect_error<MismatchError>(verdict(ranks),
                              {"rank 0 ... forward of layer 'bn1' ... rank 1 ... backward of layer 'bn2'"});
}

// The way out is for ranks whose calls differ in their layers' places alone.
TEST(Verdict, OnlyPlacesDiffer) {
  std::vector<RankReport> ranks(3, call("forward of an unnamed layer", "C=1"));
  ranks[0].place = Place{true, 1}.code();
  ranks[1].place = Place{false, 1}.code();
  ranks[2].place = ranks[1].place;
  const auto text = testing::outcome([&] { throw_verdict(ranks, "the way out"); });
  expect_error<MismatchError>(
      text, {"rank 0 ... first ... 2 by construction ... ranks 1-2 ... 1 by first calls", "the way out"});
  ranks[0].place = -5;
  expect_error<MismatchError>(testing::outcome([&] { throw_verdict(ranks, "the way out"); }),
                              {"rank 0 ... another order", "the way out"});
  ranks[0].settings = "C=2";
  const auto other = testing::outcome([&] { throw_verdict(ranks, "the way out"); });
  expect_error<MismatchError>(other, {"rank 0 ... C=2 ... C=1"});
  EXPECT_FALSE(tells(other, "the way out"));
}

TEST(Verdict, LengthAndNumberOfTheCall) {
  std::vector<RankReport> ranks(3, call("all_reduce_sum", "type=float32"));
  ranks[2].number = 18;
  expect_error<MismatchError>(verdict(ranks), {"rank 2 ... call 18 ... ranks 0-1 ... call 17"});
  ranks[2] = ranks[1];
  ranks[1].words = 41;
  expect_error<MismatchError>(verdict(ranks), {"rank 1 ... ranks 0, 2", "versions"});
}

TEST(Verdict, ManyDifferentCalls) {
  std::vector<RankReport> ranks;
  for (int r = 0; r < 20; ++r) ranks.push_back(call("forward of layer 'bn1'", fmt::format("C={}", r)));
  expect_error<MismatchError>(verdict(ranks), {"rank 0 ... C=0 ... rank 7 ... C=7 ... 12"});
  EXPECT_FALSE(tells(verdict(ranks), "C=8"));
}

TEST(Verdict, ReasonsOfFailedRanksAreGrouped) {
  std::vector<RankReport> ranks(4, call("a", ""));
  for (const std::size_t r : {0u, 3u}) ranks[r] = {{1, 17, 0, 1}, "a", "no memory"};
  expect_error<PeerError>(verdict(ranks), {"ranks 0, 3 ... no memory"});
}

TEST(Verdict, SlotsKeepWhatFits) {
  std::array<std::int64_t, kReportWords> slot{};
  const RankReport brought{
      {0, 5, std::numeric_limits<std::int64_t>::max(), 77, -3}, "forward of layer 'βn'", "C=64, eps=1e-05"};
  write_slot(brought, slot);
  EXPECT_EQ(read_slot(slot), brought);
}

TEST(Verdict, LongTextsAreCutBetweenCharacters) {
  for (std::size_t bytes = 0; bytes < 4; ++bytes) {
    SCOPED_TRACE(bytes);
    std::string name(bytes, 'x');
    for (int i = 0; i < 400; ++i) name += "层";  // three bytes each
    std::array<std::int64_t, kReportWords> slot{};
    write_slot({{1, 1, 0, 1}, name, name}, slot);
    const RankReport read = read_slot(slot);
    for (const std::string& text : {read.subject, read.settings}) {
      ASSERT_GT(text.size(), 100u);
      EXPECT_EQ(text.substr(text.size() - 3), "...");
      EXPECT_EQ((text.size() - 3 - bytes) % 3, 0u) << "cut inside a character";
      EXPECT_EQ(name.rfind(text.substr(0, text.size() - 3), 0), 0u);
    }
  }
}

TEST(Verdict, ADifferenceBehindTheCutIsAdmitted) {
  RankReport a = call(std::string(300, 'a'), "");
  RankReport b = a;
  b.hash = a.hash + 1;
  expect_error<MismatchError>(verdict({a, b}), {"rank 0", "rank 1", "cut"});
}

TEST(Verdict, ForeignWordsAreNoWildLengths) {
  std::array<std::int64_t, kReportWords> slot;
  for (const std::int64_t word :
       {std::int64_t{-1}, std::numeric_limits<std::int64_t>::min(), std::int64_t{1} << 40}) {
    slot.fill(word);
    const RankReport read = read_slot(slot);
    EXPECT_LE(read.subject.size() + read.settings.size(), sizeof slot);
  }
}

TEST(Verdict, RankLists) {
  EXPECT_EQ(base::rank_list({4}), "rank 4");
  EXPECT_EQ(base::rank_list({0, 1, 2, 4, 6, 7}), "ranks 0-2, 4, 6-7");
}

}  // namespace
}  // namespace syncbn::group
