// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace syncbn::reliability {

/// A table of results in docs/reliability.md, between the lines "<!-- results: <name> -->" and "<!-- end
/// -->".
struct Table {
  std::string corner;
  std::vector<std::string> columns;
  std::vector<std::string> rows;
  std::map<std::pair<std::string, std::string>, std::string> cells;  ///< By row and column.
};

/// How much of the matrix is run, and whether the document is told or asked: variable SYNCBN_RELIABILITY.
enum class Extent {
  part,   ///< Not set: what continuous integration has time for, compared with the document.
  whole,  ///< "whole": all of it, compared with the document.
  write,  ///< "write": all of it, and the document is written.
};
Extent extent();

/// The cells as the document has them. @throws std::runtime_error there is no such table
Table read_table(const std::string& name);
void write_table(const std::string& name, const Table& table);

}  // namespace syncbn::reliability
