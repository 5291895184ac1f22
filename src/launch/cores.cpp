// SPDX-License-Identifier: Apache-2.0
#include "launch/cores.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/rank_list.h"
#include "base/throw_errno.h"
#include "environment/parse.h"
#include "launch/exit_codes.h"

namespace syncbn::launch {
namespace {

using nlohmann::json;

constexpr int kMaxCores = 1 << 16;  // more than any machine has; a mistyped range must not fill the memory
constexpr std::string_view kExample = R"({"device0": ["0-3"], "device1": ["4-6", "7"]})";

// True for "device" and a DEVICE_ID, which has no leading zeros.
bool is_device(std::string_view key) {
  if (!key.starts_with("device")) return false;
  const std::string_view digits = key.substr(6);
  return !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos &&
         (digits.size() == 1 || digits[0] != '0');
}

// The number of a core; -1 if `text` is not one.
int parse_core(std::string_view text) {
  const int core = environment::parse<int>(text).value_or(-1);
  return core < kMaxCores ? core : -1;
}

// Adds the cores of "3", "0-10", or several of these with commas between them. False if `text` is malformed.
bool add_cores(std::string_view text, std::vector<int>& cores) {
  while (true) {
    const std::string_view part = text.substr(0, text.find(','));
    const std::size_t dash = part.find('-');
    const int first = parse_core(part.substr(0, dash));
    const int last = dash == std::string_view::npos ? first : parse_core(part.substr(dash + 1));
    if (first < 0 || last < first) return false;
    for (int core = first; core <= last; ++core) cores.push_back(core);
    if (part.size() == text.size()) return true;
    text.remove_prefix(part.size() + 1);
  }
}

std::vector<int> read_cores(const std::string& key, const json& value) {
  if (!value.is_array() || value.empty())
    throw UsageError(fmt::format("--bind_core: {} is {}; allowed: a list of strings such as [\"0-3\", \"8\"]",
                                 key, value.dump()));
  std::vector<int> cores;
  for (const json& item : value) {
    std::string text = item.is_string() ? item.get<std::string>() : "";
    std::erase_if(text, [](char c) { return c == ' ' || c == '\t'; });
    if (!add_cores(text, cores))
      throw UsageError(fmt::format(
          "--bind_core: {} has {}; allowed: a string with a core, \"3\", or with a range, \"0-3\"", key,
          item.dump()));
  }
  std::sort(cores.begin(), cores.end());
  cores.erase(std::unique(cores.begin(), cores.end()), cores.end());
  return cores;
}

// A set of kMaxCores cores for the system calls; a plain cpu_set_t holds only 1,024.
const std::size_t kSetSize = CPU_ALLOC_SIZE(kMaxCores);
class CoreSet {
 public:
  CoreSet() : set_(CPU_ALLOC(kMaxCores)) { CPU_ZERO_S(kSetSize, set_.get()); }
  cpu_set_t* get() const { return set_.get(); }

 private:
  struct Free {
    void operator()(cpu_set_t* set) const { CPU_FREE(set); }
  };
  std::unique_ptr<cpu_set_t, Free> set_;
};

bool move_to(const std::vector<int>& cores) {
  const CoreSet set;
  for (const int core : cores) CPU_SET_S(static_cast<std::size_t>(core), kSetSize, set.get());
  return sched_setaffinity(0, kSetSize, set.get()) == 0;
}

}  // namespace

CoreBinding parse_bind_core(std::string_view text) {
  if (text == "True" || text == "False") return {text == "True", {}};
  const json binding = json::parse(text, nullptr, false);
  if (!binding.is_object())
    throw UsageError(
        fmt::format("--bind_core is '{}'; allowed: True, False, or JSON such as {}", text, kExample));
  CoreBinding result;
  for (const auto& [key, value] : binding.items()) {
    if (!is_device(key) && key != "scheduler")
      throw UsageError(
          fmt::format("--bind_core has the key '{}'; allowed: device0, device1 and so on, scheduler", key));
    result.chosen.emplace(key, read_cores(key, value));
  }
  return result;
}

std::vector<int> usable_cores() {
  const CoreSet set;
  if (sched_getaffinity(0, kSetSize, set.get()) != 0) base::throw_errno("sched_getaffinity");
  std::vector<int> cores;
  for (std::size_t core = 0; core < kMaxCores; ++core) {
    if (CPU_ISSET_S(core, kSetSize, set.get())) cores.push_back(static_cast<int>(core));
  }
  return cores;
}

ScopedAffinity::ScopedAffinity(const std::vector<int>& cores) {
  if (cores.empty()) return;
  before_ = usable_cores();
  if (!move_to(cores)) base::throw_errno("--bind_core: cores " + base::ranges(cores));
}

ScopedAffinity::~ScopedAffinity() {
  if (!before_.empty()) move_to(before_);
}

std::vector<std::vector<int>> split_evenly(const std::vector<int>& cores, int parts) {
  std::vector<std::vector<int>> result;
  const auto border = [&](int part) {
    return cores.begin() + static_cast<std::ptrdiff_t>(cores.size()) * part / parts;
  };
  for (int part = 0; part < parts; ++part) result.emplace_back(border(part), border(part + 1));
  return result;
}

}  // namespace syncbn::launch
