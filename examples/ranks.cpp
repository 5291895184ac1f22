// SPDX-License-Identifier: Apache-2.0
#include "ranks.h"

#include <fmt/core.h>

#include <cstdio>
#include <exception>
#include <string>

#include "syncbn/syncbn.h"

namespace {

void say_what_failed(const std::exception& error) {
  std::string who;
  try {
    who = fmt::format("rank {}", syncbn::get_rank());
  } catch (const syncbn::Error&) {  // before init, and the launcher's variables are in disorder
    who = "rank unknown";
  }
  const std::string line = fmt::format("{}: {}\n", who, error.what());
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

int run_on_ranks(int threads, const std::function<void(int)>& body) {
  const auto say_and_rethrow = [&](int index) {
    try {
      body(index);
    } catch (const std::exception& error) {
      say_what_failed(error);
      throw;
    }
  };
  try {
    if (threads > 0) {
      syncbn::run_ranks(threads, say_and_rethrow);
    } else {
      say_and_rethrow(0);
    }
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
