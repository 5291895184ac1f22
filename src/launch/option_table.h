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

/// The option that `name` stands for: hyphens count as underscores, and -n and -h are short names. Null if
/// there is none.
const OptionRow* find_option(std::string_view name);
/// Text of --help. It shows the defaults of Options.
std::string help_text();
/// "unknown option '--worker_mun'; did you mean --worker_num?"
std::string describe_unknown_option(std::string_view name);

}  // namespace syncbn::launch
