#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace syncbn::group {

/// What one rank brought to a call that went wrong.
struct Brought {
  bool failed = false;      ///< It could not make its call; `settings` is then the reason.
  std::int64_t number = 0;  ///< Of the call in its group, from 1.
  std::int64_t words = 0;   ///< Length of its payload.
  std::int64_t hash = 0;    ///< Of subject and settings before they were cut.
  std::string subject;      ///< Cut where it is long, as is the next.
  std::string settings;
};

/// A rank's part of the message that tells the ranks who brought what: of fixed size, so long texts are cut.
inline constexpr std::size_t kSlotWords = 64;
void write_slot(const Brought& brought, std::span<std::int64_t> slot);
Brought read_slot(std::span<const std::int64_t> slot);

/// The error that all ranks see when they have read what each brought: different calls take precedence over
/// failed ranks, whose calls are not compared. @throws MismatchError, PeerError
[[noreturn]] void throw_verdict(const std::vector<Brought>& ranks);

}  // namespace syncbn::group
