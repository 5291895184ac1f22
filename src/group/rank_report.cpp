// SPDX-License-Identifier: Apache-2.0
#include "group/rank_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <string_view>
#include <type_traits>

#include "base/rank_list.h"
#include "group/places.h"
#include "syncbn/error.h"

namespace syncbn::group {
namespace {

// A slot holds the numbers, the lengths of the two texts in bytes, then the bytes of the texts.
static_assert(std::is_trivially_copyable_v<CallNumbers> &&
              std::has_unique_object_representations_v<CallNumbers>);
constexpr std::size_t kNumbers = sizeof(CallNumbers) / sizeof(std::int64_t);
constexpr std::size_t kSlotHead = kNumbers + 2;
constexpr std::size_t kTextBytes = (kReportWords - kSlotHead) * sizeof(std::int64_t);
constexpr std::size_t kMaxSubject = 160;
constexpr std::size_t kMaxShown = 8;  // number of different calls in one message

// Shortens the text to at most `bytes` bytes, between two UTF-8 characters, and marks the cut with dots.
std::string cut(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  constexpr std::string_view kDots = "...";
  std::size_t end = bytes - kDots.size();
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)).append(kDots);
}

std::vector<std::string_view> split(std::string_view settings) {
  constexpr std::string_view kBetween = ", ";
  std::vector<std::string_view> items;
  while (!settings.empty()) {
    const std::size_t end = settings.find(kBetween);
    items.push_back(settings.substr(0, end));
    settings.remove_prefix(end == std::string_view::npos ? settings.size() : end + kBetween.size());
  }
  return items;
}

// The ranks whose reports are the same.
struct Party {
  const RankReport* report;
  std::vector<int> ranks;
};

bool same_failure(const RankReport& a, const RankReport& b) { return a.settings == b.settings; }

// Groups the reports with this value of `failed`. The smallest party comes first, because the reader looks
// for the rank that differs.
template <class Same>
std::vector<Party> parties(const std::vector<RankReport>& reports, bool failed, Same same) {
  std::vector<Party> found;
  for (std::size_t r = 0; r < reports.size(); ++r) {
    if ((reports[r].failed != 0) != failed) continue;
    auto party =
        std::find_if(found.begin(), found.end(), [&](const Party& p) { return same(*p.report, reports[r]); });
    if (party == found.end()) party = found.insert(found.end(), {&reports[r], {}});
    party->ranks.push_back(static_cast<int>(r));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Party& a, const Party& b) { return a.ranks.size() < b.ranks.size(); });
  return found;
}

template <class Member>
bool differ(const std::vector<Party>& calls, Member value) {
  return std::any_of(calls.begin(), calls.end(),
                     [&](const Party& p) { return p.report->*value != calls.front().report->*value; });
}

std::string text_of_place(std::int64_t place) {
  return place < 0 ? "its layers in another order" : Place::of_code(place).text();
}

// True if the calls differ in nothing but the places of their layers.
bool only_places_differ(const std::vector<Party>& calls) {
  return differ(calls, &RankReport::place) && !differ(calls, &RankReport::subject) &&
         !differ(calls, &RankReport::settings) && !differ(calls, &RankReport::number) &&
         !differ(calls, &RankReport::hash);
}

// A text for each call with the facts that distinguish it: "forward of layer 'bn1' (C=64, eps=0.001)". The
// subject is always there. Settings that all calls share are left out.
std::vector<std::string> distinctions(const std::vector<Party>& calls) {
  const bool numbers = differ(calls, &RankReport::number);
  const bool places = only_places_differ(calls);
  std::vector<std::string> texts;
  for (const Party& party : calls) {
    std::vector<std::string> details;
    for (const std::string_view item : split(party.report->settings)) {
      const bool shared = std::all_of(calls.begin(), calls.end(), [&](const Party& p) {
        const auto items = split(p.report->settings);
        return std::find(items.begin(), items.end(), item) != items.end();
      });
      if (!shared) details.emplace_back(item);
    }
    if (numbers) details.push_back(fmt::format("call {}", party.report->number));
    if (places) details.push_back(text_of_place(party.report->place));
    texts.push_back(details.empty()
                        ? party.report->subject
                        : fmt::format("{} ({})", party.report->subject, fmt::join(details, ", ")));
  }
  return texts;
}

std::string failures(const std::vector<RankReport>& reports) {
  std::string text;
  for (const Party& party : parties(reports, true, same_failure)) {
    text +=
        fmt::format("{}{} failed before {} call: {}", text.empty() ? "" : "; ", base::rank_list(party.ranks),
                    party.ranks.size() == 1 ? "its" : "their", party.report->settings);
  }
  return text;
}

}  // namespace

void write_slot(const RankReport& report, std::span<std::int64_t> slot) {
  const std::string subject = cut(report.subject, kMaxSubject);
  const std::string settings = cut(report.settings, kTextBytes - subject.size());
  const CallNumbers& numbers = report;
  std::memcpy(slot.data(), &numbers, sizeof numbers);
  slot[kNumbers] = static_cast<std::int64_t>(subject.size());
  slot[kNumbers + 1] = static_cast<std::int64_t>(settings.size());
  const std::string text = subject + settings;
  std::memcpy(slot.data() + kSlotHead, text.data(), text.size());
}

RankReport read_slot(std::span<const std::int64_t> slot) {
  CallNumbers numbers;
  std::memcpy(static_cast<void*>(&numbers), slot.data(), sizeof numbers);
  std::string text(kTextBytes, '\0');
  std::memcpy(text.data(), slot.data() + kSlotHead, kTextBytes);
  // The lengths are clamped, because another program may send its own words on the same channel.
  const auto subject = static_cast<std::size_t>(std::clamp<std::int64_t>(slot[kNumbers], 0, kTextBytes));
  const auto settings = static_cast<std::size_t>(std::clamp<std::int64_t>(slot[kNumbers + 1], 0, kTextBytes));
  return {numbers, text.substr(0, subject), text.substr(subject, settings)};
}

void throw_verdict(const std::vector<RankReport>& reports, std::string_view way_out) {
  const std::string failed = failures(reports);
  const std::vector<Party> calls = parties(reports, false, std::equal_to<>());
  if (calls.size() <= 1 && !failed.empty()) throw PeerError(failed + "; the group is broken");
  const std::vector<std::string> texts = distinctions(calls);
  std::string text;
  for (std::size_t i = 0; i < std::min(texts.size(), kMaxShown); ++i) {
    text += fmt::format("{}{} called {}", i == 0 ? "different calls: " : "; ",
                        base::rank_list(calls[i].ranks), texts[i]);
  }
  if (texts.size() > kMaxShown) text += fmt::format("; and {} more", texts.size() - kMaxShown);
  if (!failed.empty()) text += "; " + failed;
  if (only_places_differ(calls)) {
    text += fmt::format("; {}", way_out);
  } else if (texts.size() > 1 && texts[0] == texts[1]) {
    text += "; what differs is not shown: texts are cut, or the ranks run different versions of syncbn";
  }
  throw MismatchError(text + "; the group is broken");
}

}  // namespace syncbn::group
