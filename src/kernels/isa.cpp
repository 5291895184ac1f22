// SPDX-License-Identifier: Apache-2.0
#include "kernels/isa.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <cstdlib>

#include "syncbn/error.h"
#include "syncbn/isa.h"

namespace syncbn {
namespace {

struct Isa {
  const char* name;
  std::int64_t targets;  // of Highway; 0: the plain loops
};
// Only targets with a fused multiply-add: elsewhere the plain loops run, with std::fma.
constexpr Isa kIsas[] = {
    {"avx512", HWY_AVX3_DL | HWY_AVX3}, {"avx2", HWY_AVX2}, {"neon", HWY_NEON}, {"scalar", 0}};

bool is_available(const Isa& isa) {
  return isa.targets == 0 || (isa.targets & HWY_TARGETS & hwy::SupportedTargets()) != 0;
}

struct Choice {
  hwy::ChosenTarget target;
  std::atomic<const Isa*> isa{nullptr};
};
Choice choice;

const Isa& find(const std::string& name, const char* source) {
  for (const Isa& isa : kIsas) {
    if (name == isa.name && is_available(isa)) return isa;
  }
  throw InvalidArgument(
      fmt::format("{}: '{}', available here: {}", source, name, fmt::join(available_isas(), ", ")));
}

void choose(const Isa& isa) {
  choice.target.Update(isa.targets & HWY_TARGETS & hwy::SupportedTargets());
  choice.isa = &isa;
}

const Isa& default_isa() {
  const char* forced = std::getenv("SYNCBN_ISA");
  return find(forced != nullptr && *forced != '\0' ? forced : available_isas().front(), "SYNCBN_ISA");
}

const Isa& active() {
  // Where this throws, the next call tries again. std::call_once would hang then under the thread sanitizer.
  static const bool chosen = [] {
    if (choice.isa == nullptr) choose(default_isa());
    return true;
  }();
  static_cast<void>(chosen);
  return *choice.isa.load();
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (is_available(isa)) names.emplace_back(isa.name);
  }
  return names;
}

std::string active_isa() { return active().name; }

void force_isa(const std::optional<std::string>& name) { choose(name ? find(*name, "name") : default_isa()); }

namespace kernels {

const hwy::ChosenTarget& chosen_target() {
  active();
  return choice.target;
}

bool has_vector_code() { return active().targets != 0; }

}  // namespace kernels
}  // namespace syncbn
