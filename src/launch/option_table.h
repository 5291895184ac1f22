#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace syncbn::launch {

/// An option of the command line: what the parser accepts and --help tells.
struct OptionRow {
  std::string_view name;      ///< "--worker_num"
  std::string_view value;     ///< "N", "True|False"; empty: a switch, which takes none.
  std::string default_value;  ///< As it would be written.
  std::string_view meaning;
};

const std::vector<OptionRow>& option_table();

}  // namespace syncbn::launch
