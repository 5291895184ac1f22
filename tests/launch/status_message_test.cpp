// What the supervisor tells the process in front of it, as it arrives in pieces.
#include "launch/status_message.h"

#include <gtest/gtest.h>

#include <string>

namespace syncbn::launch {
namespace {

std::string shown(const Word& word) {
  struct Show {
    std::string operator()(const Progress& p) const {
      return "progress " + std::to_string(p.here) + ' ' + std::to_string(p.up) + ' ' +
             std::to_string(p.joined) + ' ' + std::to_string(p.ended);
    }
    std::string operator()(const Started& started) const {
      std::string text = "started";
      for (const int rank : started.ranks) text += ' ' + std::to_string(rank);
      return text;
    }
    std::string operator()(const Said& said) const { return "said " + said.text; }
    std::string operator()(const LetGo&) const { return "let go"; }
    std::string operator()(const Restarting& restarting) const {
      return "restart " + std::to_string(restarting.restart) + ' ' + restarting.text;
    }
  };
  return std::visit(Show{}, word);
}

const std::vector<Word> kWords = {Progress{4, 3, 2, 1},
                                  Started{{5, 0, 65535}},
                                  Said{""},
                                  Said{std::string("a\0b\n", 4)},
                                  Started{{}},
                                  Said{std::string(100'000, 'x')},
                                  LetGo{},
                                  Progress{},
                                  Restarting{3, "why\n"},
                                  Restarting{1, ""}};

TEST(Words, ArriveWholeInPiecesOfAnySize) {
  std::string bytes;
  for (const Word& word : kWords) bytes += encode(word);
  for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{4096}, bytes.size()}) {
    SCOPED_TRACE("pieces of " + std::to_string(piece));
    WordReader reader;
    std::vector<std::string> heard;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      reader.append(std::string_view(bytes).substr(at, piece));
      while (const auto word = reader.next()) heard.push_back(shown(*word));
    }
    ASSERT_EQ(heard.size(), kWords.size());
    for (std::size_t i = 0; i < heard.size(); ++i) EXPECT_EQ(heard[i], shown(kWords[i])) << i;
  }
}

TEST(Words, APieceOfOneIsNone) {
  // control: a reader that gives a word at its header's end fails here.
  for (const Word& word : kWords) {
    const std::string bytes = encode(word);
    WordReader reader;
    reader.append(std::string_view(bytes).substr(0, bytes.size() - 1));
    EXPECT_FALSE(reader.next()) << shown(word).substr(0, 40);
    reader.append(std::string_view(bytes).substr(bytes.size() - 1));
    EXPECT_TRUE(reader.next()) << shown(word).substr(0, 40);
    EXPECT_FALSE(reader.next());
  }
}

}  // namespace
}  // namespace syncbn::launch
