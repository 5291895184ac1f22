// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "digest.h"

/// One column of a table with a row for each channel.
struct Column {
  Column(std::string_view heading, std::span<const float> numbers);
  Column(std::string_view heading, std::span<const double> numbers);
  std::string name;
  std::vector<double> values;
};

/// One rank's results as one text, so that ranks do not write into each other's lines.
class Table {
 public:
  explicit Table(std::string_view title);
  void section(std::string_view title);
  void channels(std::initializer_list<Column> columns);            ///< A row for each channel.
  void values(std::string_view name, std::span<const float> row);  ///< Eight numbers a line.
  /// All of it, and a digest of the bits of every number in it.
  std::string text() const;

 private:
  std::string text_;
  Digest digest_;
};

/// To stdout, in one write.
void write_at_once(std::string_view text);
