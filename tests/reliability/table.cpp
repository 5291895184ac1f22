// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace syncbn::reliability {
namespace {

std::vector<std::string> document() {
  std::ifstream file(SYNCBN_RELIABILITY_DOCUMENT);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The lines of the table, without its marks.
std::pair<std::size_t, std::size_t> place(const std::vector<std::string>& lines, const std::string& name) {
  for (std::size_t begin = 0; begin < lines.size(); ++begin) {
    if (lines[begin] != fmt::format("<!-- results: {} -->", name)) continue;
    for (std::size_t end = begin + 1; end < lines.size(); ++end) {
      if (lines[end] == "<!-- end -->") return {begin + 1, end};
    }
  }
  throw std::runtime_error(fmt::format("{} has no results of {}", SYNCBN_RELIABILITY_DOCUMENT, name));
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream text(line.substr(1));
  for (std::string cell; std::getline(text, cell, '|');) {
    const auto begin = cell.find_first_not_of(' ');
    cells.push_back(begin == std::string::npos ? ""
                                               : cell.substr(begin, cell.find_last_not_of(' ') - begin + 1));
  }
  return cells;
}

}  // namespace

Extent extent() {
  const char* value = std::getenv("SYNCBN_RELIABILITY");
  if (value == nullptr) return Extent::part;
  if (value == std::string("whole")) return Extent::whole;
  if (value == std::string("write")) return Extent::write;
  throw std::runtime_error(fmt::format("SYNCBN_RELIABILITY: '{}', expected whole or write", value));
}

Table read_table(const std::string& name) {
  const std::vector<std::string> lines = document();
  const auto [begin, end] = place(lines, name);
  Table table;
  for (std::size_t i = begin; i < end; ++i) {
    if (!lines[i].starts_with("|") || lines[i].starts_with("| ---")) continue;
    const std::vector<std::string> cells = cells_of(lines[i]);
    if (table.columns.empty()) {
      table.corner = cells[0];
      table.columns.assign(cells.begin() + 1, cells.end());
      continue;
    }
    table.rows.push_back(cells[0]);
    for (std::size_t c = 1; c < cells.size() && c <= table.columns.size(); ++c)
      table.cells[{cells[0], table.columns[c - 1]}] = cells[c];
  }
  return table;
}

void write_table(const std::string& name, const Table& table) {
  std::vector<std::string> lines = document();
  const auto [begin, end] = place(lines, name);
  std::vector<std::string> written = {
      fmt::format("| {} | {} |", table.corner, fmt::join(table.columns, " | ")), "| --- |"};
  for (std::size_t c = 0; c < table.columns.size(); ++c) written.back() += " --- |";
  for (const std::string& row : table.rows) {
    std::string line = fmt::format("| {} |", row);
    for (const std::string& column : table.columns) {
      const auto cell = table.cells.find({row, column});
      line += fmt::format(" {} |", cell == table.cells.end() ? "" : cell->second);
    }
    written.push_back(line);
  }
  const auto from = lines.begin() + static_cast<std::ptrdiff_t>(begin);
  lines.insert(lines.erase(from, lines.begin() + static_cast<std::ptrdiff_t>(end)), written.begin(),
               written.end());
  std::ofstream file(SYNCBN_RELIABILITY_DOCUMENT);
  for (const std::string& line : lines) file << line << '\n';
}

}  // namespace syncbn::reliability
