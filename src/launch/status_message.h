#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "launch/supervisor.h"

/// What a supervisor tells the process in front of it, as messages through a pipe.
namespace syncbn::launch {

/// All workers of this node run.
struct Started {
  std::vector<int> ranks;
};
/// Lines for people.
struct Said {
  std::string text;
};
/// The job begins again: its logs are those of that restart. Lines for people tell why.
struct Restarting {
  int restart;
  std::string text;
};
/// The job needs this process no more: the supervisor has let go of the console and goes on by itself.
struct LetGo {};

using Word = std::variant<Progress, Started, Said, LetGo, Restarting>;

std::string encode(const Word& word);

/// Puts together what arrives in pieces of any size.
class WordReader {
 public:
  void append(std::string_view bytes) { bytes_ += bytes; }
  /// none: the next word has not arrived whole.
  std::optional<Word> next();

 private:
  std::string bytes_;
};

}  // namespace syncbn::launch
