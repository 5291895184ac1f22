// SPDX-License-Identifier: Apache-2.0
// The wording of error messages, in one place: every other test asserts an error's class and facts.
//
// After a deliberate change of words, `make messages` writes the golden file anew. A new message gets an
// entry.
#include "messages/messages.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>

#include "outcome.h"

namespace syncbn::testing {
namespace {

using Golden = std::map<std::string, std::string>;

// An entry is two lines: a name, and the message behind two blanks.
Golden read_golden() {
  std::ifstream file(SYNCBN_GOLDEN_MESSAGES);
  Golden golden;
  std::string name;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("  ")) {
      golden[name] = line.substr(2);
    } else if (!line.empty() && !line.starts_with("#")) {
      name = line;
    }
  }
  return golden;
}

void write_golden(const Golden& golden) {
  std::ofstream file(SYNCBN_GOLDEN_MESSAGES);
  file << "# Error messages, each as it is raised by tests/messages and tests/python: a name, then the class "
          "and the\n"
          "# wording. Addresses in memory and port numbers are written as *. Written by `make messages`.\n";
  for (const auto& [name, message] : golden) file << "\n" << name << "\n  " << message << "\n";
}

// Replaces addresses in memory and port numbers, which differ from run to run.
std::string masked(std::string text) {
  text = std::regex_replace(text, std::regex("0x[0-9a-f]+"), "0x*");
  text = std::regex_replace(text, std::regex(R"((127\.0\.0\.1|localhost):\d+)"), "$1:*");
  return std::regex_replace(text, std::regex("\n"), "\\n");
}

TEST(Messages, AreWordedAsTheGoldenFileSays) {
  Golden raised;
  for (const auto& messages :
       {layer_messages(), group_messages(), rendezvous_messages(), launcher_messages(), report_messages()}) {
    for (const Message& message : messages) {
      const std::string text = masked(message.raise());
      EXPECT_NE(text, "ok") << message.name;
      EXPECT_TRUE(raised.emplace(message.name, text).second) << message.name << " is there twice";
    }
  }
  Golden golden = read_golden();
  const auto is_pythons = [](const auto& entry) { return entry.first.starts_with("python: "); };
  if (const char* mode = std::getenv("SYNCBN_MESSAGES"); mode != nullptr && std::string(mode) == "write") {
    std::erase_if(golden, [&](const auto& entry) { return !is_pythons(entry); });
    golden.merge(raised);
    return write_golden(golden);
  }
  std::erase_if(golden, is_pythons);
  for (const auto& [name, message] : raised) EXPECT_EQ(golden[name], message) << name;
  for (const auto& [name, message] : golden)
    EXPECT_TRUE(raised.contains(name)) << name << ": nothing raises it";
}

// control: the comparison sees numbers that are facts.
TEST(Messages, MaskNoFacts) {
  EXPECT_EQ(masked("y: 32 bytes at 0x7ffe12 overlap x at 0xff"), "y: 32 bytes at 0x* overlap x at 0x*");
  EXPECT_EQ(masked("127.0.0.1:80: rank 3 of 8 ranks"), "127.0.0.1:*: rank 3 of 8 ranks");
}

TEST(ExpectError, FactsAreWholeWordsInAnyOrder) {
  const std::string text = "rank 21: x: shape (2, -3), expected C = num_features = 1.5 on ranks 0-1";
  for (const char* fact :
       {"rank 21", "x", "(2, -3)", "-3", "1.5", "ranks 0-1", "num_features", "rank 21 ... ranks 0-1"})
    EXPECT_TRUE(tells(text, fact)) << fact;
  for (const char* fact :
       {"rank 2", "3", "1", "5", "ranks 0", "features", "ranks 0-1 ... rank 21", "rank 21 ... rank 21"})
    EXPECT_FALSE(tells(text, fact)) << fact;
}

TEST(ExpectError, FailsForAnotherClassAndForAFactThatIsMissing) {
  const auto call = [] { throw InvalidArgument("size: 0, expected a number in [1, 9]"); };
  expect_error<InvalidArgument>(call, {"size", "0", "[1, 9]"});
  EXPECT_NONFATAL_FAILURE(expect_error<GroupError>("InvalidArgument: size: 0", {"size"}),
                          "expected GroupError");
  EXPECT_NONFATAL_FAILURE(expect_error<InvalidArgument>("InvalidArgument: size: 0", {"1"}),
                          "does not tell 1");
  EXPECT_NONFATAL_FAILURE(expect_error<InvalidArgument>("ok", {}), "expected InvalidArgument");
}

}  // namespace
}  // namespace syncbn::testing
