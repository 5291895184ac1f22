// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cctype>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "syncbn/error.h"
#include "syncbn/group.h"

/// How calls end: "ok", or an error's class and message. Tests assert the class and the facts of a message;
/// the wording of messages stands in tests/golden/messages.txt alone.
namespace syncbn::testing {

/// "ok", or the class and the message of the syncbn::Error that `call` throws.
inline std::string outcome(const std::function<void()>& call) {
  try {
    call();
    return "ok";
  } catch (const InvalidArgument& error) {
    return std::string("InvalidArgument: ") + error.what();
  } catch (const MismatchError& error) {
    return std::string("MismatchError: ") + error.what();
  } catch (const PeerError& error) {
    return std::string("PeerError: ") + error.what();
  } catch (const TimeoutError& error) {
    return std::string("TimeoutError: ") + error.what();
  } catch (const GroupError& error) {
    return std::string("GroupError: ") + error.what();
  }
}

/// The outcome of `body` on each rank of a world of threads.
inline std::vector<std::string> outcomes(int size, const std::function<void(int rank)>& body) {
  std::vector<std::string> result(static_cast<std::size_t>(size));
  run_ranks(size, [&](int rank) { result[static_cast<std::size_t>(rank)] = outcome([&] { body(rank); }); });
  return result;
}
inline std::vector<std::string> all(int size, const std::string& outcome) {
  return std::vector<std::string>(static_cast<std::size_t>(size), outcome);
}

/// True if `text` names `fact` as a whole: "rank 2" is not in "rank 21", and "1" is in neither "-1" nor
/// "1.5". "a ... b" means a, and b somewhere behind a.
inline bool tells(std::string_view text, std::string_view fact) {
  constexpr std::string_view kThen = " ... ";
  if (const std::size_t then = fact.find(kThen); then != std::string_view::npos) {
    for (std::size_t at = 0; (at = text.find(fact.substr(0, then), at)) != std::string_view::npos; ++at) {
      if (tells(text.substr(0, at + then + 1), fact.substr(0, then)) &&
          tells(text.substr(at + then), fact.substr(then + kThen.size()))) {
        return true;
      }
    }
    return false;
  }
  const auto digit = [&](std::size_t i) {
    return i < text.size() && std::isdigit(static_cast<unsigned char>(text[i])) != 0;
  };
  const auto word = [&](std::size_t i) {
    return i < text.size() && (std::isalnum(static_cast<unsigned char>(text[i])) != 0 || text[i] == '_');
  };
  const auto joins = [&](std::size_t i) { return i < text.size() && (text[i] == '.' || text[i] == '-'); };
  for (std::size_t at = 0; (at = text.find(fact, at)) != std::string_view::npos; ++at) {
    const std::size_t end = at + fact.size();
    const bool starts_inside = word(at) && (word(at - 1) || (digit(at) && joins(at - 1)));
    const bool ends_inside = word(end - 1) && (word(end) || (digit(end - 1) && joins(end) && digit(end + 1)));
    if (!starts_inside && !ends_inside) return true;
  }
  return false;
}

/// Fails unless `outcome` is an E whose message names every fact: arguments, values, ranks, what is allowed.
template <class E>
void expect_error(const std::string& outcome, const std::vector<std::string>& facts,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const std::string name = std::is_same_v<E, InvalidArgument> ? "InvalidArgument: "
                           : std::is_same_v<E, MismatchError> ? "MismatchError: "
                           : std::is_same_v<E, PeerError>     ? "PeerError: "
                           : std::is_same_v<E, TimeoutError>  ? "TimeoutError: "
                                                              : "GroupError: ";
  if (!outcome.starts_with(name)) {
    ADD_FAILURE_AT(file, line) << outcome << "\nexpected " << name;
    return;
  }
  for (const std::string& fact : facts) {
    if (!tells(std::string_view(outcome).substr(name.size()), fact)) {
      ADD_FAILURE_AT(file, line) << outcome << "\ndoes not tell " << fact;
    }
  }
}
template <class E, class Call>
requires std::is_invocable_v<Call>
void expect_error(const Call& call, const std::vector<std::string>& facts,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  expect_error<E>(outcome(call), facts, file, line);
}

}  // namespace syncbn::testing
