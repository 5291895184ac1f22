// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "problem.h"

namespace bench {

/// One side of a comparison: a name and a call that does the whole work once.
struct Contender {
  std::string name;
  std::function<void()> call;
  /// Called before timed calls with their number: for ranks that must make the calls too. It is not timed.
  std::function<void(int count)> announce = nullptr;
};

/// Options of every program here: --quick (few shapes, few repeats), --repeats N, --only TEXT (comparisons
/// whose description holds the text), --ranks N (of ranks as threads).
struct Settings {
  int repeats = 15;
  int ranks = 2;
  bool quick = false;
  std::string only;

  /// Reads the command line; prints what is allowed and ends the program if the command line is wrong.
  static Settings parse(int argc, char** argv);
  /// The large shapes and the small ones, or one of each.
  std::vector<std::vector<std::int64_t>> all_shapes() const;
  std::vector<std::vector<std::int64_t>> large_shapes() const;
};

/// Seconds that `count` calls take together, right after `before` others.
double seconds_of(const Contender& contender, int count, int before = 0);

/// Seconds of one call, sample by sample: sample i of all contenders was taken in the same round, so that a
/// ratio of two is a ratio of neighbours in time. A sample is a call of some milliseconds, or as many calls
/// as last that long, after one that is not counted.
std::vector<std::vector<double>> interleaved(std::span<const Contender> contenders, int repeats);

/// Prints one comparison as a line of JSON: what is compared, and the samples of each contender.
class Report {
 public:
  explicit Report(Settings settings) : settings_(std::move(settings)) {}
  /// True if the settings ask for the comparison with this description. Ask before memory is filled.
  bool wants(const nlohmann::json& about) const;
  void compare(const nlohmann::json& about, std::span<const Contender> contenders) const;
  const Settings& settings() const { return settings_; }

 private:
  Settings settings_;
};

/// {"suite": …, "shape": …, "layout": …, "dtype": …, "data": …, "direction": …}
nlohmann::json describe(const std::string& suite, const Problem& problem, const std::string& direction);

}  // namespace bench
