// SPDX-License-Identifier: Apache-2.0

// What Gloo's ranks make of a bad network: three nodes, network namespaces on a switch, a rank on each. The
// network goes bad while they train, or, for delay, is so from the start. Outcomes as in matrix_test.cpp.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <fstream>

#include "../launch/network.h"
#include "table.h"

namespace syncbn::reliability {
namespace {

using launch::Job;
using launch::Strings;
using launch::Variables;

constexpr int kSize = 3;
constexpr int kBadNode = 1;

struct Trouble {
  std::string name;
  std::string row;     // of docs/reliability.md
  std::string before;  // nft rules or other commands on the bad node
  std::string during;
  bool expires = false;  // a deadline passes
  bool in_part = false;
};
const std::vector<Trouble> kTroubles = {
    {"Partition", "all packets dropped (partition)", "",
     "nft 'add table inet t; add chain inet t in { type filter hook input priority 0; policy drop; }; "
     "add chain inet t out { type filter hook output priority 0; policy drop; }'",
     true, true},
    {"LostLink", "link down", "", "ip link set dev cable down", true},
    {"Loss", "every tenth packet lost", "",
     "nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; "
     "add rule inet t in numgen random mod 10 < 1 drop'"},
    {"Slow", "2 Mbit/s (tbf)", "", "tc qdisc add dev cable root tbf rate 2mbit burst 16kbit latency 400ms",
     false, true},
    {"Delay", "30 ms delay (relay)",
     "nft 'add table inet t; add chain inet t out { type nat hook output priority -100; }; "
     "add rule inet t out oifname cable meta mark != 1 meta l4proto tcp redirect to :9999'",
     ""},
};

std::ostream& operator<<(std::ostream& out, const Trouble& trouble) { return out << trouble.row; }

class Net : public launch::JobTest, public ::testing::WithParamInterface<Trouble> {
 protected:
  Job& run_on(int node, const Strings& command, const Variables& variables, const std::string& name) {
    Strings all = network_.on(node);
    all.insert(all.end(), command.begin(), command.end());
    Variables environment = variables;
    const char* path = std::getenv("PATH");
    environment["PATH"] = fmt::format("{}:/usr/sbin:/sbin", path == nullptr ? "/usr/bin:/bin" : path);
    std::filesystem::create_directories(folder() / name);
    return launch(all, environment, name);
  }
  void spoil(const std::string& command, const std::string& name) {
    if (command.empty()) return;
    Job& job = run_on(kBadNode, {"sh", "-c", command}, {}, name);
    ASSERT_EQ(job.wait(), 0) << job.err();
  }

  const launch::Network network_{kSize, folder() / "network"};
};
INSTANTIATE_TEST_SUITE_P(Bad, Net, ::testing::ValuesIn(kTroubles),
                         [](const auto& trouble) { return trouble.param.name; });

std::string outcome_of(const Job& job) {
  for (const std::string& line : launch::lines_of(job.out())) {
    if (!line.starts_with("rank ") || line.ends_with(": ready")) continue;
    const auto colon = line.find(": ");
    return line.substr(colon + 2, line.find(':', colon + 2) - colon - 2);
  }
  return "";
}

// control: with a deadline of 1 s Delay is a TimeoutError while the group connects, and Slow one in training
// at a tenth of its rate.
TEST_P(Net, OutcomesAreAsDocumented) {
  const Trouble& trouble = GetParam();
  if (!network_.separate()) GTEST_SKIP() << "no network namespaces here";
  if (extent() == Extent::part && !trouble.in_part) GTEST_SKIP() << "a part of the whole: make reliability";
  spoil(trouble.before, "before");
  if (trouble.name == "Delay") {
    Job& relay = run_on(kBadNode, {"python3", SYNCBN_RELAY, "0.03"}, {}, "relay");
    ASSERT_TRUE(launch::wait_until([&] { return relay.out() == "ready\n"; })) << relay.err();
  }
  std::vector<Job*> ranks;
  for (int rank = 0; rank < kSize; ++rank) {
    ranks.push_back(&run_on(rank, {SYNCBN_WORKER, "launched", "forward", "pause", "-1"},
                            {{"RANK", std::to_string(rank)},
                             {"WORLD_SIZE", std::to_string(kSize)},
                             {"LOCAL_RANK", "0"},
                             {"MASTER_ADDR", network_.address(0)},
                             {"MASTER_PORT", "7000"},
                             {"SYNCBN_TIMEOUT_S", trouble.expires ? "6" : "120"},
                             {"SYNCBN_TEST_CHANNELS", "512"},
                             {"SYNCBN_TEST_PAUSE", (folder() / "pause").string()},
                             {"SYNCBN_TEST_GO", (folder() / "go").string()}},
                            fmt::format("rank{}", rank)));
  }
  for (Job* rank : ranks)
    ASSERT_TRUE(launch::wait_until([&] { return launch::contains(rank->out(), "ready"); }))
        << rank->out() << rank->err();
  spoil(trouble.during, "during");
  std::ofstream(folder() / "pause").close();
  if (!trouble.expires) std::ofstream(folder() / "go").close();  // whoever has done its part leaves at once
  std::string others;
  for (int rank = 0; rank < kSize; ++rank) {
    Job& job = *ranks[static_cast<std::size_t>(rank)];
    EXPECT_TRUE(launch::wait_until([&] { return !outcome_of(job).empty(); })) << job.out() << job.err();
    EXPECT_FALSE(launch::contains(job.out(), "WRONG") || launch::contains(job.out(), "STATE CHANGED"))
        << job.out();
    if (rank == kBadNode) continue;
    if (others.empty()) others = outcome_of(job);
    EXPECT_EQ(outcome_of(job), others) << job.out();
    if (trouble.expires) {
      EXPECT_TRUE(launch::contains(job.out(), fmt::format("TimeoutError ... rank {}", kBadNode)))
          << job.out();
    }
  }
  std::ofstream(folder() / "go").close();
  std::string cell = others;
  const std::string own = outcome_of(*ranks[kBadNode]);
  if (own != others) cell += "; itself " + own;
  fmt::print("{}: {}\n{}", trouble.row, cell, ranks[0]->out());
  Table table = read_table("network");
  if (extent() != Extent::write) {
    EXPECT_EQ(cell, (table.cells[{trouble.row, "while training"}]));
    return;
  }
  if (table.columns.empty()) table = {"network of one of three nodes", {"while training"}, {}, {}};
  if (std::count(table.rows.begin(), table.rows.end(), trouble.row) == 0) table.rows.push_back(trouble.row);
  table.cells[{trouble.row, "while training"}] = cell;
  write_table("network", table);
}

}  // namespace
}  // namespace syncbn::reliability
