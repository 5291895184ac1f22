// SPDX-License-Identifier: Apache-2.0

// Slurm's short forms of lists
#include "environment/slurm_lists.h"

#include <gtest/gtest.h>

namespace syncbn::environment {
namespace {

TEST(SlurmLists, FirstNode) {
  const std::pair<const char*, const char*> lists[] = {{"n1", "n1"},
                                                       {"n1,n2", "n1"},
                                                       {"n[01-03,7],m2", "n01"},
                                                       {"n[7,01-03]", "n7"},
                                                       {"m2,n[01-03,7]", "m2"},
                                                       {"n[1-2]-eth,m", "n1-eth"},
                                                       {"n[5]", "n5"},
                                                       {"rack[0-1]n[8-9]", "rack0n8"},
                                                       {"a-b.c", "a-b.c"}};
  for (const auto& [nodes, first] : lists) EXPECT_EQ(first_node(nodes), first) << nodes;
  for (const char* nodes : {"", ",n1", "n[", "n[1-2", "n[]", "n[,1]", "n[-2]", "n1]"})
    EXPECT_EQ(first_node(nodes), std::nullopt) << nodes;
}

TEST(SlurmLists, TasksOfNode) {
  const int expected[] = {3, 2, 2, 2, 2, 1};
  for (int node = 0; node < 6; ++node) EXPECT_EQ(tasks_of_node("3,2(x4),1", node), expected[node]) << node;
  EXPECT_EQ(tasks_of_node("3,2(x4),1", 6), std::nullopt);
  EXPECT_EQ(tasks_of_node("16(x2)", 1), 16);
  for (const char* tasks : {"", "x", "0", "-1", "2(x", "2(x2", "2(x0)", "(x2)", "2x", ",2", "2(2)", "2(x2)3"})
    EXPECT_EQ(tasks_of_node(tasks, 0), std::nullopt) << tasks;
}

}  // namespace
}  // namespace syncbn::environment
