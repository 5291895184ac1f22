// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace syncbn::launch {

/// An option of the command line, for the parser and for --help.
struct OptionRow {
  std::string_view name;      ///< "--worker_num"
  std::string_view value;     ///< "N", "True|False"; empty: a switch, which takes no value.
  std::string default_value;  ///< As written on the command line.
  std::string_view meaning;
};

const std::vector<OptionRow>& option_table();

}  // namespace syncbn::launch
