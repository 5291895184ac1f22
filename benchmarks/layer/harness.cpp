// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "syncbn/dtype.h"
#include "syncbn/isa.h"
#include "syncbn/threads.h"

namespace bench {
namespace {

constexpr double kSample = 4e-3;  // seconds at least
constexpr double kLong = 20e-3;   // a call that long needs no other to warm up

}  // namespace

double seconds_of(const Contender& contender, int count, int before) {
  if (contender.announce) contender.announce(before + count);
  for (int i = 0; i < before; ++i) contender.call();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) contender.call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Settings Settings::parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    const auto number = [&](int& to) {
      const char* end = value.data() + value.size();
      return !value.empty() && std::from_chars(value.data(), end, to).ptr == end && to > 0;
    };
    if (name == "--quick") {
      settings.quick = true;
      settings.repeats = 7;
    } else if (name == "--only" && i + 1 < argc) {
      settings.only = argv[++i];
    } else if ((name == "--repeats" && number(settings.repeats)) ||
               (name == "--ranks" && number(settings.ranks))) {
      ++i;
    } else {
      fmt::print(stderr, "usage: {} [--quick] [--repeats N] [--ranks N] [--only TEXT]\n", argv[0]);
      std::exit(2);
    }
  }
  return settings;
}

std::vector<std::vector<std::int64_t>> Settings::large_shapes() const {
  const auto& all = bench::large_shapes();
  if (quick) return {all[1]};
  return all;
}

std::vector<std::vector<std::int64_t>> Settings::all_shapes() const {
  std::vector<std::vector<std::int64_t>> shapes = large_shapes();
  const auto& small = small_shapes();
  if (quick) {
    shapes.push_back(small[3]);  // (4,512,7,7)
  } else {
    shapes.insert(shapes.end(), small.begin(), small.end());
  }
  return shapes;
}

std::vector<std::vector<double>> interleaved(std::span<const Contender> contenders, int repeats) {
  std::vector<int> calls;
  std::vector<int> warm_ups;
  for (const Contender& contender : contenders) {
    seconds_of(contender, 1);  // first calls allocate, plan and start threads
    const double once = std::min(seconds_of(contender, 1), seconds_of(contender, 1));
    calls.push_back(std::clamp(static_cast<int>(kSample / once), 1, 100000));
    warm_ups.push_back(once < kLong ? 1 : 0);
  }
  std::vector<std::vector<double>> samples(contenders.size());
  for (int round = 0; round < repeats; ++round) {
    for (std::size_t turn = 0; turn < contenders.size(); ++turn) {
      const std::size_t i = (turn + static_cast<std::size_t>(round)) % contenders.size();
      samples[i].push_back(seconds_of(contenders[i], calls[i], warm_ups[i]) / calls[i]);
    }
  }
  return samples;
}

bool Report::wants(const nlohmann::json& about) const {
  std::string text;
  for (const auto& [key, value] : about.items())
    text += value.is_string() ? value.get<std::string>() + ' ' : "";
  return text.find(settings_.only) != std::string::npos;
}

void Report::compare(const nlohmann::json& about, std::span<const Contender> contenders) const {
  if (!wants(about)) return;
  const auto samples = interleaved(contenders, settings_.repeats);
  nlohmann::json line = about;
  line["isa"] = syncbn::active_isa();
  line["threads"] = syncbn::get_num_threads();
  for (std::size_t i = 0; i < contenders.size(); ++i) line["seconds"][contenders[i].name] = samples[i];
  fmt::print("{}\n", line.dump());
  std::fflush(stdout);
}

nlohmann::json describe(const std::string& suite, const Problem& problem, const std::string& direction) {
  return {{"suite", suite},
          {"shape", name_of(problem.dims)},
          {"layout", problem.channels_last() ? "channels-last" : "channels-first"},
          {"dtype", syncbn::name_of(problem.dtype)},
          {"data", name_of(problem.data)},
          {"direction", direction}};
}

}  // namespace bench
