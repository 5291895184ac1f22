// SPDX-License-Identifier: Apache-2.0
#include "group/places.h"

#include <fmt/core.h>

#include <algorithm>

namespace syncbn::group {
namespace {

// Number of layers that are known at most. The limit bounds the memory of a program that makes its layers
// anew in each step. Beyond the limit all layers are forgotten, in the same sum on every rank, and counted
// anew.
constexpr std::size_t kMaxLayers = std::size_t{1} << 16;

}  // namespace

std::string Place::text() const {
  return is_first_sum ? fmt::format("its first call, number {} by construction", position + 1)
                      : fmt::format("number {} by first calls", position);
}

Places::Members::const_iterator Places::find(const Members& members, std::int64_t number) {
  // New layers come at the end, as a rule.
  if (members.empty() || members.back().number < number) return members.end();
  return std::lower_bound(members.begin(), members.end(), number,
                          [](const Member& member, std::int64_t n) { return member.number < n; });
}

Place Places::take(const LayerReference& layer, std::int64_t call) {
  auto of_name = members_.find(layer.name);
  if (of_name == members_.end()) of_name = members_.try_emplace(std::string(layer.name)).first;
  Members* members = &of_name->second;
  auto found = find(*members, layer.number);
  if (found != members->end() && found->number == layer.number) return {false, found->by_first_sum};
  if (size_ == kMaxLayers) {
    members_.clear();
    size_ = 0;
    members = &members_[std::string(layer.name)];
    found = members->end();
  }
  ++size_;
  const std::int64_t position = found - members->begin();
  members->insert(found, {layer.number, static_cast<std::int64_t>(members->size()) + 1, call});
  return {true, position};
}

std::optional<std::int64_t> Places::number_by_first_sum(const LayerReference& layer) const {
  const auto of_name = members_.find(layer.name);
  if (of_name == members_.end()) return std::nullopt;
  const auto found = find(of_name->second, layer.number);
  if (found == of_name->second.end() || found->number != layer.number) return std::nullopt;
  return found->by_first_sum;
}

std::optional<std::int64_t> Places::first_call(std::string_view name) const {
  const auto of_name = members_.find(name);
  if (of_name == members_.end()) return std::nullopt;
  const Members& members = of_name->second;
  return std::min_element(members.begin(), members.end(),
                          [](const Member& a, const Member& b) { return a.first_call < b.first_call; })
      ->first_call;
}

std::int64_t Places::first_mixed_call(const LayerReference& layer, std::int64_t low,
                                      std::int64_t high) const {
  // The order of the other members is the same on all ranks. The new layer belongs before those from `low` on
  // according to one rank, and behind those before `high` according to another.
  const Members& members = members_.find(layer.name)->second;
  std::int64_t first = members.back().first_call, place = 0;
  for (const Member& member : members) {
    if (member.number == layer.number) continue;
    if (place >= low && place < high) first = std::min(first, member.first_call);
    ++place;
  }
  return first;
}

}  // namespace syncbn::group
