// SPDX-License-Identifier: Apache-2.0

// In place of rank_table_json.cpp in a build without SYNCBN_RANK_TABLES, which needs no nlohmann_json.
#include "environment/rank_table.h"
#include "syncbn/error.h"

namespace syncbn::environment {

RankTable parse_rank_table(const std::string&) {
  throw GroupError(
      "this build of syncbn cannot read rank tables; build it with the CMake option SYNCBN_RANK_TABLES=ON, "
      "or unset RANK_TABLE_FILE and start the ranks with another launcher");
}

}  // namespace syncbn::environment
