// SPDX-License-Identifier: Apache-2.0
// Lines about a long wait: when, at which level, and what they say. Times are made up.
#include "base/long_wait.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <vector>

#include "base/interrupt.h"
#include "base/timeout.h"
#include "outcome.h"

namespace syncbn::base {
namespace {

using namespace std::chrono_literals;
using Clock = Reminder::Clock;

class LongWaitTest : public ::testing::Test {
 protected:
  LongWaitTest() { unsetenv("SYNCBN_LOG"); }
  ~LongWaitTest() override { unsetenv("SYNCBN_LOG"); }
  static void set_level(const char* level) { setenv("SYNCBN_LOG", level, 1); }
};

TEST(Reminder, IsDueAtGrowingIntervals) {
  const auto begin = Clock::time_point(1000s);
  Reminder reminder(begin);
  std::vector<std::chrono::seconds::rep> due;
  for (auto time = 0s; time <= 200s; time += 1s)
    if (reminder.is_due(begin + time)) due.push_back(time.count());
  EXPECT_EQ(due, (std::vector<std::chrono::seconds::rep>{10, 30, 70, 150}));
  EXPECT_EQ(reminder.next(), begin + 310s);
}

TEST_F(LongWaitTest, ALineSaysWhoWaitsWhereForWhomUntilWhenAndWhatChangesIt) {
  LongWait wait("rank 1 of 4", "to join the world", {300s, "SYNCBN_TIMEOUT_S"});
  const auto begin = Clock::now();
  const std::string limit =
      "until [0-2][0-9]:[0-5][0-9]:[0-5][0-9], in 300 of 300 s \\(SYNCBN_TIMEOUT_S\\)\n";
  EXPECT_EQ(wait.due_line(begin + 9s), std::nullopt);
  const std::string plain = wait.due_line(begin + 11s).value();
  EXPECT_TRUE(std::regex_match(plain, std::regex("syncbn: rank 1 of 4 waits to join the world, " + limit)))
      << plain;
  const WaitPhrase at([] { return "at 10.0.0.1:29501"; });
  {
    const WaitPhrase whom([] { return "for ranks 2-3 to call init()"; });
    EXPECT_EQ(wait.due_line(begin + 12s), std::nullopt);
    const std::string line = wait.due_line(begin + 32s).value();
    EXPECT_TRUE(std::regex_match(
        line,
        std::regex("syncbn: rank 1 of 4 waits at 10.0.0.1:29501 for ranks 2-3 to call init\\(\\), " + limit)))
        << line;
  }
  const std::string line = wait.due_line(begin + 80s).value();  // control: a phrase ends with its object
  EXPECT_TRUE(std::regex_match(line, std::regex("syncbn: rank 1 of 4 waits at 10.0.0.1:29501, " + limit)))
      << line;
  EXPECT_EQ(wait.text_at_deadline(), "rank 1 of 4 waited 300 s (SYNCBN_TIMEOUT_S) to join the world");
}

TEST_F(LongWaitTest, AWaitWithoutALimitHasNoEnd) {
  LongWait wait("rank 0 of 2", "to join the world", {kLongestTimeout, "MS_TOPO_TIMEOUT"});
  EXPECT_EQ(wait.due_line(Clock::now() + 11s),
            "syncbn: rank 0 of 2 waits to join the world, without a limit (MS_TOPO_TIMEOUT)\n");
}

TEST_F(LongWaitTest, SyncbnLogIsTheLevel) {
  for (const auto& [level, says] : std::vector<std::pair<const char*, bool>>{
           {"off", false}, {"error", false}, {"warning", true}, {"info", true}}) {
    set_level(level);
    ::testing::internal::CaptureStderr();
    {
      LongWait wait("rank 0 of 2", "to join the world", {300s, "SYNCBN_TIMEOUT_S"});
      EXPECT_EQ(wait.due_line(Clock::now() + 11s).has_value(), says) << level;
    }
    const std::string end = ::testing::internal::GetCapturedStderr();
    EXPECT_TRUE(std::regex_match(
        end, std::regex(level == std::string("info") ? "syncbn: rank 0 of 2 waited .* s to join the world\n"
                                                     : "")))
        << level << ": " << end;
  }
}

TEST_F(LongWaitTest, AWaitThatFailsIsToldByItsErrorAlone) {
  set_level("info");
  ::testing::internal::CaptureStderr();
  EXPECT_THROW(
      {
        LongWait wait("rank 0 of 2", "to join the world", {300s, "SYNCBN_TIMEOUT_S"});
        throw TimeoutError("");
      },
      TimeoutError);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(LongWaitTest, AWrongLevelIsAnError) {
  set_level("loud");
  testing::expect_error<GroupError>(
      [] {
        LongWait("rank 0 of 2", "to join the world", {1s, "SYNCBN_TIMEOUT_S"});
      },
      {"SYNCBN_LOG: 'loud' ... off, error, warning or info"});
}

TEST_F(LongWaitTest, NothingIsToldEarly) {
  ::testing::internal::CaptureStderr();
  check_interrupt();  // without a wait, nothing to tell
  LongWait wait("rank 0 of 2", "to join the world", {300s, "SYNCBN_TIMEOUT_S"});
  check_interrupt();  // not due
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace syncbn::base
