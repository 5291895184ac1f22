// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace syncbn::group {

/// Numbers by which a rank describes its call. All but `failed` are compared as fields of a header.
struct CallNumbers {
  std::int64_t failed = 0;  ///< 1: the rank could not make its call.
  std::int64_t number = 0;  ///< Number of the call in its group, from 1.
  std::int64_t words = 0;   ///< Length of the payload.
  std::int64_t hash = 0;    ///< Hash of the uncut subject and settings.
  std::int64_t place = 0;   ///< Code of the layer's place; negative: a hash of several places.
  bool operator==(const CallNumbers&) const = default;
};

/// Report of one rank about a call that went wrong.
struct RankReport : CallNumbers {
  std::string subject;   ///< A long subject is cut, as are long settings.
  std::string settings;  ///< The reason, if the rank failed.
  bool operator==(const RankReport&) const = default;
};

/// Size of a rank's slot in the message that exchanges the reports. It is fixed, so long texts are cut.
inline constexpr std::size_t kReportWords = 64;
void write_slot(const RankReport& report, std::span<std::int64_t> slot);
RankReport read_slot(std::span<const std::int64_t> slot);

/// Throws the error that all ranks derive from the reports of all ranks, in the order of the ranks. Different
/// calls take precedence over failed ranks; the calls of failed ranks are not compared. `way_out` is added if
/// nothing but places differs.
/// @throws MismatchError, PeerError
[[noreturn]] void throw_verdict(const std::vector<RankReport>& reports, std::string_view way_out = {});

}  // namespace syncbn::group
