// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "checkpoint.h"

struct Options {
  RunSettings settings;
  int epochs = 12;
  int stop_after_epoch = 0;  ///< 0: runs to the end.
  std::string data;
  std::string checkpoint;  ///< Empty: none.
  bool digest_only = false;
  int threads = 0;  ///< Ranks as threads; 0: the launcher's.
};

/// None if the program must end at once with `exit_code`, after --help or an error; both are printed already.
std::optional<Options> parse_options(int argc, char** argv, int& exit_code);
