// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace syncbn::group {

/// A layer that takes part in a call.
struct LayerReference {
  std::string_view name;  ///< The given name; empty for an unnamed layer.
  std::int64_t number;    ///< Orders the layers of this process by their construction.
};

/// Place of a layer among the layers of its name that have taken part in a sum of its group. The ranks
/// compare places. A place has two forms:
/// - In the layer's first sum: how many of the layers before it were constructed before it.
/// - In every later sum: the layer's number by first sums, from 1.
///
/// Both forms are needed. The first form finds layers whose first sums come in another order than on the
/// other ranks. Two layers may have the same first form, since each is compared with the layers before it
/// alone. The second form is unique.
struct Place {
  bool is_first_sum;
  std::int64_t position;

  /// The place as one number >= 0.
  std::int64_t code() const { return 2 * position + (is_first_sum ? 0 : 1); }
  static Place of_code(std::int64_t code) { return {code % 2 == 0, code / 2}; }
  std::string text() const;
};

/// The layers that have taken part in a group's sums. Ranks whose calls have agreed so far have the same
/// places, whatever else each of them has constructed.
class Places {
 public:
  /// The place of a layer in its sum number `call`. From its first sum on the layer is counted.
  Place take(const LayerReference& layer, std::int64_t call);
  /// The layer's number by first sums; none before its first sum.
  std::optional<std::int64_t> number_by_first_sum(const LayerReference& layer) const;
  /// The first call of any layer of a name; none if no layer of the name is known.
  std::optional<std::int64_t> first_call(std::string_view name) const;
  /// For a layer whose first sum this is, and to which the ranks give places from `low` to `high`: the first
  /// call that may have mixed layers.
  std::int64_t first_mixed_call(const LayerReference& layer, std::int64_t low, std::int64_t high) const;

 private:
  struct Member {
    std::int64_t number, by_first_sum, first_call;
  };
  using Members = std::vector<Member>;  // in the order of construction

  static Members::const_iterator find(const Members& members, std::int64_t number);

  std::map<std::string, Members, std::less<>> members_;  // by name
  std::size_t size_ = 0;                                 // of all names
};

}  // namespace syncbn::group
