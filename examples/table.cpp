// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <fmt/core.h>

#include <cstddef>
#include <cstdio>

Column::Column(std::string_view heading, std::span<const float> numbers)
    : name(heading), values(numbers.begin(), numbers.end()) {}

Column::Column(std::string_view heading, std::span<const double> numbers)
    : name(heading), values(numbers.begin(), numbers.end()) {}

Table::Table(std::string_view title) { text_ = fmt::format("{}\n", title); }

void Table::section(std::string_view title) { text_ += fmt::format("\n{}\n", title); }

void Table::channels(std::initializer_list<Column> columns) {
  text_ += "  channel ";
  for (const Column& column : columns) text_ += fmt::format("{:>15}", column.name);
  text_ += '\n';
  for (std::size_t c = 0; c < columns.begin()->values.size(); ++c) {
    text_ += fmt::format("  {:<8}", c);
    for (const Column& column : columns) {
      digest_.add(std::span(&column.values[c], 1));
      text_ += fmt::format("{:>15.8g}", column.values[c]);
    }
    text_ += '\n';
  }
}

void Table::values(std::string_view name, std::span<const float> row) {
  digest_.add(row);
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i % 8 == 0) text_ += fmt::format("{}  {:<8}", i == 0 ? "" : "\n", i == 0 ? name : "");
    text_ += fmt::format("{:>14.8g}", row[i]);
  }
  text_ += '\n';
}

std::string Table::text() const { return fmt::format("{}\ndigest {}\n\n", text_, digest_.hex()); }

void write_at_once(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}
