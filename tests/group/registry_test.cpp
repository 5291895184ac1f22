// init, groups and the get functions, with good and bad input
#include "world/resolve_group.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "engines/entry.h"
#include "environment.h"
#include "ranks.h"
#include "world/current_world.h"

namespace syncbn {
namespace {

using testing::Environment;
using testing::outcome;
using testing::Variables;
using world::resolve_group;
using world::World;
using namespace std::chrono_literals;

// Every test starts and ends without a world, in an environment without a launcher.
class Registry : public ::testing::Test {
 protected:
  ~Registry() override { world::set_process_world(nullptr); }
  Environment environment_{Variables{}};
};

std::int64_t sum_of(std::int64_t value, std::string_view group) {
  std::vector<std::int64_t> payload{value};
  resolve_group(group)->sum({"a sum", ""}, payload);
  return payload[0];
}

std::vector<int> all_but(int size, int rank) {
  std::vector<int> ranks = testing::first_ranks(size);
  ranks.erase(ranks.begin() + rank);
  return ranks;
}

const Variables kTorchrun = {{"RANK", "1"},        {"WORLD_SIZE", "4"},
                             {"LOCAL_RANK", "1"},  {"LOCAL_WORLD_SIZE", "2"},
                             {"MASTER_PORT", "9"}, {"MASTER_ADDR", "127.0.0.1"}};

TEST_F(Registry, WorldOfOne) {
  init();
  EXPECT_TRUE(is_initialized());
  for (const char* world : {"world", "hccl_world_group", "nccl_world_group", "mccl_world_group"}) {
    EXPECT_EQ(get_rank(world), 0);
    EXPECT_EQ(get_group_size(world), 1);
    EXPECT_EQ(get_local_rank(world), 0);
    EXPECT_EQ(get_local_rank_size(world), 1);
    EXPECT_EQ(get_world_rank_from_group_rank(world, 0), 0);
    EXPECT_EQ(get_group_rank_from_world_rank(0, world), 0);
  }
  init();  // does nothing
  release();
  EXPECT_FALSE(is_initialized());
  init(InitOptions{});  // may follow
  EXPECT_EQ(get_group_size(), 1);
}

TEST_F(Registry, BeforeInitTheEnvironmentAnswersForTheWorldOnly) {
  EXPECT_EQ(get_rank(), 0);
  EXPECT_EQ(get_group_size(), 1);
  EXPECT_EQ(get_local_rank(), 0);
  EXPECT_EQ(get_local_rank_size(), 1);
  {
    const Environment environment(kTorchrun);
    EXPECT_EQ(get_rank(), 1);
    EXPECT_EQ(get_group_size("hccl_world_group"), 4);
    EXPECT_EQ(get_local_rank(), 1);
    EXPECT_EQ(get_local_rank_size(), 2);
  }
  {
    const Environment environment(
        {{"MS_WORKER_NUM", "4"}, {"MS_SCHED_HOST", "h"}, {"MS_SCHED_PORT", "1"}, {"DEVICE_ID", "3"}});
    EXPECT_EQ(get_rank(), 0);  // msrun without RANK_ID
    EXPECT_EQ(get_local_rank(), 3);
  }
  {
    Variables variables = {{"SYNCBN_STORE", "h:1"}, {"RANK_ID", "5"}, {"RANK_SIZE", "8"}, {"DEVICE_ID", "1"}};
    EXPECT_EQ((Environment(variables), get_local_rank()), 1);
    variables["LOCAL_RANK"] = "2";
    EXPECT_EQ((Environment(variables), get_local_rank()), 2);
  }
  for (const auto& get : {get_rank, get_group_size, get_local_rank, get_local_rank_size}) {
    const std::string text = outcome([&] { get("dp"); });
    EXPECT_NE(text.find("group 'dp': not initialised; call init() first"), std::string::npos) << text;
    EXPECT_EQ(text.rfind("GroupError: get_", 0), 0u) << text;
  }
  EXPECT_FALSE(is_initialized());
}

TEST_F(Registry, EverythingElseNeedsInit) {
  const std::vector<std::pair<const char*, std::function<void()>>> calls = {
      {"create_group", [] { create_group("dp", {0}); }},
      {"create_group", [] { create_group("dp", {}); }},
      {"destroy_group", [] { destroy_group("dp"); }},
      {"get_world_rank_from_group_rank", [] { get_world_rank_from_group_rank("dp", 0); }},
      {"get_world_rank_from_group_rank", [] { get_world_rank_from_group_rank("dp", -1); }},
      {"get_group_rank_from_world_rank", [] { get_group_rank_from_world_rank(0, "dp"); }},
  };
  for (const auto& [name, call] : calls) {
    EXPECT_EQ(outcome(call),
              fmt::format("GroupError: {}: group 'dp': not initialised; call init() first", name));
  }
  const std::vector<std::function<void()>> of_the_world = {
      [] { create_group("world", {0}); },
      [] { destroy_group("world"); },
      [] { get_world_rank_from_group_rank("world", 0); },
      [] { get_group_rank_from_world_rank(0, "world"); },
  };
  for (const auto& call : of_the_world) {
    const std::string text = outcome(call);
    EXPECT_NE(text.find("group 'world': not initialised; call init() first"), std::string::npos) << text;
  }
  EXPECT_EQ(outcome([] {
              new_group({1, 0});
            }),
            "GroupError: new_group: ranks [1, 0]: not initialised; call init() first");
  EXPECT_EQ(outcome([] { resolve_group("dp"); }),
            "GroupError: group 'dp': not initialised; call init() first");
}

TEST_F(Registry, ReleaseBeforeInitSpoilsNothing) {
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(outcome([] { release(); }), "GroupError: release: not initialised; call init() first");
  EXPECT_EQ(get_rank(), 0);
  init();
  EXPECT_EQ(get_local_rank_size(), 1);
  release();
  EXPECT_EQ(outcome([] { release(); }),
            "GroupError: release: the world has been released; call init() first");
  init();
  EXPECT_EQ(get_group_size(), 1);
}

// Every function that speaks of a world or a group, each with what it begins its message with.
std::vector<std::pair<std::string, std::function<void()>>> calls_on(const char* group) {
  return {
      {"get_rank: ", [=] { get_rank(group); }},
      {"get_group_size: ", [=] { get_group_size(group); }},
      {"get_local_rank: ", [=] { get_local_rank(group); }},
      {"get_local_rank_size: ", [=] { get_local_rank_size(group); }},
      {"get_world_rank_from_group_rank: ", [=] { get_world_rank_from_group_rank(group, 0); }},
      {"get_group_rank_from_world_rank: ", [=] { get_group_rank_from_world_rank(0, group); }},
      {"create_group: ", [=] { create_group(group, {0}); }},
      {"destroy_group: ", [=] { destroy_group(group); }},
      {"", [=] { resolve_group(group); }},
  };
}

// The environment has the answers, but this rank has left the world that they were about.
TEST_F(Registry, AfterReleaseNothingAnswers) {
  InitOptions simulation;
  simulation.rank = 1;
  simulation.size = 4;
  simulation.backend = Backend::simulation;
  for (const bool of_the_environment : {false, true}) {
    const Environment environment(kTorchrun);
    of_the_environment ? init(Backend::simulation) : init(simulation);
    create_group("dp", {0, 1});
    const auto kept = resolve_group("dp");
    release();
    EXPECT_FALSE(is_initialized());
    for (const char* group : {"world", "hccl_world_group", "dp", "never"}) {
      for (const auto& [name, call] : calls_on(group)) {
        EXPECT_EQ(outcome(call), fmt::format("GroupError: {}group '{}': the world has been released; call "
                                             "init() first",
                                             name, group));
      }
    }
    EXPECT_EQ(outcome([] { new_group({0}); }),
              "GroupError: new_group: ranks [0]: the world has been released; call init() first");
    std::vector<std::int64_t> payload(1);
    EXPECT_EQ(outcome([&] {
                kept->sum({"a sum", ""}, payload);
              }),
              "GroupError: group 'dp', a sum: the group is closed: this rank has left its world");
    init(simulation);
    EXPECT_EQ(get_rank(), 1);
    EXPECT_EQ(outcome([] { get_rank("dp"); }).rfind("GroupError: group 'dp' is unknown to rank 1 ", 0), 0u);
    create_group("dp", {1, 0});  // its name is free
    EXPECT_EQ(get_rank("dp"), 0);
    release();
  }
}

TEST_F(Registry, AfterReleaseNothingAnswersOnAThreadOfRunRanks) {
  const Environment environment(kTorchrun);
  run_ranks(2, [](int) {
    create_group("dp", {0, 1});
    release();
    for (const char* group : {"world", "dp"}) {
      for (const auto& [name, call] : calls_on(group)) {
        EXPECT_EQ(
            outcome(call),
            fmt::format("GroupError: {}group '{}': this thread's world has been released", name, group));
      }
    }
    EXPECT_EQ(outcome([] { release(); }), "GroupError: release: this thread's world has been released");
  });
  EXPECT_EQ(get_rank(), 1);  // the process has released nothing
}

TEST_F(Registry, WithoutInitTheWorldIsThisRankUnlessTheEnvironmentNamesMore) {
  EXPECT_EQ(resolve_group("world")->size(), 1);
  EXPECT_EQ(resolve_group("nccl_world_group"), resolve_group("world"));
  const Environment environment(kTorchrun);
  EXPECT_EQ(outcome([] { resolve_group("world"); }),
            "GroupError: group 'world': torchrun has started 4 ranks, which this one has not joined; call "
            "init() first");
}

TEST_F(Registry, InitUnderALauncherNeedsItsEngine) {
  Variables variables = kTorchrun;
  variables["SYNCBN_BACKEND"] = "mpi";
  const Environment environment(variables);
  const std::string text = outcome([] { init(); });
  EXPECT_EQ(text.rfind("GroupError: engine 'mpi' is not linked into this program, which has ", 0), 0u)
      << text;
  EXPECT_NE(text.find("link with syncbn::mpi"), std::string::npos) << text;
  EXPECT_FALSE(is_initialized());
}

TEST_F(Registry, InitRefusesBadOptions) {
  const auto refused = [](const char* start, const InitOptions& options) {
    const std::string text = outcome([&] { init(options); });
    EXPECT_EQ(text.rfind(std::string("InvalidArgument: ") + start, 0), 0u) << text;
    EXPECT_FALSE(is_initialized());
  };
  const auto options = [](auto change) {
    InitOptions o;
    o.size = 2;
    o.port = 1;
    change(o);
    return o;
  };
  refused("size: 0, expected a number of ranks in [1, 65536]", options([](InitOptions& o) { o.size = 0; }));
  refused("size: 65537, expected", options([](InitOptions& o) { o.size = 65537; }));
  refused("rank: 2, expected a rank in [0, 2)", options([](InitOptions& o) { o.rank = 2; }));
  refused("rank: -1, expected", options([](InitOptions& o) { o.rank = -1; }));
  refused("port: 0, expected a port in [1, 65535]", options([](InitOptions& o) { o.port = 0; }));
  refused("port: 65536, expected", options([](InitOptions& o) { o.port = 65536; }));
  refused("host: empty", options([](InitOptions& o) { o.host = ""; }));
  refused("timeout: 0 ms, expected 1 to 1000000000000 ms", options([](InitOptions& o) { o.timeout = 0ms; }));
  refused("timeout: 9223372036854775807 ms, expected 1 to 1000000000000 ms",
          options([](InitOptions& o) { o.timeout = std::chrono::milliseconds::max(); }));
  refused("backend: automatic asks", options([](InitOptions& o) { o.backend = Backend::automatic; }));
  refused("backend: 9, expected", options([](InitOptions& o) { o.backend = static_cast<Backend>(9); }));
  EXPECT_EQ(outcome([] { init(static_cast<Backend>(9)); }),
            "InvalidArgument: backend: 9, expected automatic, gloo, mpi or simulation");
  const Environment environment(Variables{{"SYNCBN_TIMEOUT_S", "soon"}});
  EXPECT_EQ(
      outcome([] { init(); }).rfind("GroupError: SYNCBN_TIMEOUT_S: 'soon', expected a number of seconds", 0),
      0u);
}

TEST_F(Registry, InitTwiceWithOptions) {
  init(InitOptions{});
  EXPECT_EQ(outcome([] { init(InitOptions{}); }),
            "GroupError: init: already initialised; release() comes first");
}

TEST_F(Registry, TheSchedulerOfMsrunEndsInInit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Environment environment({{"MS_ROLE", "MS_SCHED"},
                                 {"MS_WORKER_NUM", "2"},
                                 {"MS_SCHED_HOST", "127.0.0.1"},
                                 {"MS_SCHED_PORT", "8118"}});
  EXPECT_EXIT(init(), ::testing::ExitedWithCode(0), "");
}

TEST_F(Registry, CreateGroup) {
  run_ranks(3, [](int rank) {
    create_group("g", {2, 0, 1});
    EXPECT_EQ(get_rank("g"), (rank + 1) % 3);
    EXPECT_EQ(get_group_size("g"), 3);
    EXPECT_EQ(get_local_rank("g"), (rank + 1) % 3);
    EXPECT_EQ(get_local_rank_size("g"), 3);
    for (int r = 0; r < 3; ++r) {
      EXPECT_EQ(get_group_rank_from_world_rank(r, "g"), (r + 1) % 3);
      EXPECT_EQ(get_world_rank_from_group_rank("g", (r + 1) % 3), r);
      EXPECT_EQ(get_world_rank_from_group_rank("world", r), r);
    }
    create_group("g", {2, 0, 1});                 // again: nothing happens
    create_group("world", {0, 1, 2});             // nor here
    create_group("hccl_world_group", {0, 1, 2});  // nor here
    create_group("alone", {rank});
    EXPECT_EQ(get_rank("alone"), 0);
    EXPECT_EQ(get_group_size("alone"), 1);
    EXPECT_EQ(get_local_rank("alone"), 0);
    EXPECT_EQ(get_local_rank_size("alone"), 1);
    EXPECT_EQ(get_world_rank_from_group_rank("alone", 0), rank);
    EXPECT_EQ(get_group_rank_from_world_rank(rank, "alone"), 0);
    EXPECT_EQ(sum_of(rank, "g"), 3);
  });
}

// An engine that only says where its ranks are.
class PlacedEngine final : public group::Engine {
 public:
  PlacedEngine(int rank, std::vector<std::string> hosts) : rank_(rank), hosts_(std::move(hosts)) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(hosts_.size()); }
  const std::vector<std::string>& hosts() const override { return hosts_; }
  std::unique_ptr<Communicator> connect(const group::GroupSpec&, Deadline) override {
    throw PeerError("nothing here can be connected");
  }
  void note_peer_error() noexcept override {}

 private:
  const int rank_;
  const std::vector<std::string> hosts_;
};

// Which of the ranks before it in the list are on its host: neither the world's order nor the host's counts.
TEST_F(Registry, LocalRanksOnSeveralHosts) {
  const std::vector<std::string> hosts = {"a", "b", "a", "b", "b"};
  const std::vector<int> list = {4, 2, 1, 0};
  const std::vector<int> in_world = {0, 0, 1, 1, 2};
  const std::vector<int> in_list = {1, 1, 0, -1, 0};
  for (int rank = 0; rank < 5; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    SCOPED_TRACE(fmt::format("rank {}", rank));
    world::set_process_world(std::make_shared<World>(std::make_unique<PlacedEngine>(rank, hosts), 60s));
    EXPECT_EQ(get_local_rank(), in_world[r]);
    EXPECT_EQ(get_local_rank_size(), hosts[r] == "a" ? 2 : 3);
    if (rank == 3) continue;
    create_group("g", list);
    EXPECT_EQ(get_local_rank("g"), in_list[r]);
    EXPECT_EQ(get_local_rank_size("g"), 2);
  }
}

// Nothing here can be connected, so whoever tries fails.
TEST_F(Registry, CreatingGroupsAndGroupsOfOneConnectNothing) {
  world::set_process_world(
      std::make_shared<World>(std::make_unique<PlacedEngine>(1, std::vector<std::string>(4, "a")), 60s));
  create_group("alone", {1});
  EXPECT_EQ(new_group({1}), "rank 1");
  create_group("all", {0, 1, 2, 3});
  create_group("g", {1, 2});
  destroy_group("g");
  EXPECT_EQ(sum_of(7, "alone"), 7);
  EXPECT_EQ(sum_of(7, "rank 1"), 7);
  for (const char* name : {"all", "world"}) {  // control
    EXPECT_EQ(
        outcome([&] { sum_of(7, name); }),
        fmt::format("PeerError: group '{}', call 1, a sum, on rank 1: nothing here can be connected", name));
  }
}

TEST_F(Registry, ANonMembersCreateGroupPoisonsNothing) {
  run_ranks(3, [](int rank) {
    for (int i = 0; i < 3; ++i) {
      const std::string text = outcome([] { create_group("pair", {1, 0}); });
      EXPECT_EQ(text, rank < 2 ? "ok"
                               : "GroupError: create_group: group 'pair', ranks [1, 0]: this rank, 2, is no "
                                 "member; only members create a group");
      EXPECT_EQ(sum_of(1, "world"), 3);  // the next unrelated operation
      if (rank < 2) {
        EXPECT_EQ(sum_of(1, "pair"), 2);
      }
      create_group("all", {2, 1, 0});
      EXPECT_EQ(sum_of(1, "all"), 3);
    }
    if (rank == 2) create_group("pair", {2});  // the name is its own to use
  });
}

TEST_F(Registry, NewGroup) {
  run_ranks(5, [](int rank) {
    const std::string name = new_group({4, 1, 2});
    if (rank == 0 || rank == 3) {
      EXPECT_EQ(name, "");
      EXPECT_EQ(outcome([&] { get_rank(name); }).rfind("GroupError: group '' is unknown to rank", 0), 0u);
    } else {
      EXPECT_EQ(name, "ranks 1-2, 4");
      EXPECT_EQ(get_rank(name), rank == 4 ? 2 : rank - 1);  // ascending
      EXPECT_EQ(sum_of(rank, name), 7);
      EXPECT_EQ(new_group({1, 2, 4}), name);  // the same group: its second call
      EXPECT_EQ(sum_of(rank, name), 7);
      EXPECT_EQ(resolve_group(name), resolve_group(new_group({2, 1, 4})));
      destroy_group(name);
      EXPECT_EQ(new_group({2, 4, 1}), name);
      EXPECT_EQ(sum_of(rank, name), 7);
    }
    // Members call alone, in any order of their groups.
    if (rank < 2) {
      EXPECT_EQ(sum_of(1, new_group({0, 1})), 2);
    } else if (rank > 2) {
      EXPECT_EQ(sum_of(1, new_group({3, 4})), 2);
    }
    EXPECT_EQ(new_group({rank}), fmt::format("rank {}", rank));
    EXPECT_EQ(new_group({4, 3, 2, 1, 0}), "ranks 0-4");
    EXPECT_EQ(sum_of(1, "ranks 0-4"), 5);
    EXPECT_EQ(sum_of(1, "world"), 5);
  });
}

TEST_F(Registry, NewGroupRefuses) {
  run_ranks(3, [](int) {
    const auto refused = [](const std::vector<int>& ranks) { return outcome([&] { new_group(ranks); }); };
    EXPECT_EQ(refused({}), "InvalidArgument: new_group, ranks []: a group needs at least one rank");
    EXPECT_EQ(refused({2, 2}), "InvalidArgument: new_group, ranks [2, 2]: rank 2 is in it twice");
    EXPECT_EQ(refused({3}), "InvalidArgument: new_group, ranks [3]: rank 3 is outside [0, 3), the world");
    EXPECT_EQ(refused({0, -1}),
              "InvalidArgument: new_group, ranks [0, -1]: rank -1 is outside [0, 3), the world");
    create_group("ranks 0-2", {2, 1, 0});
    EXPECT_EQ(
        refused({0, 1, 2}),
        "InvalidArgument: create_group: group 'ranks 0-2', ranks [0, 1, 2]: the name is taken by a group "
        "of [2, 1, 0]");
    EXPECT_EQ(get_rank("ranks 0-2"), 2 - get_rank());
  });
}

// Rank 0 calls its groups in any order, rank 1 in another. Control: with new_group giving the world itself
// for its list, a sum of the one meets a sum of the other.
TEST_F(Registry, GroupsOfOneListOweEachOtherNoOrder) {
  run_ranks(2, [](int rank) {
    create_group("third", {0, 1});
    const auto sum = [group = std::array{resolve_group("world"), resolve_group(new_group({0, 1})),
                                         resolve_group("third")}](std::size_t which) {
      std::vector<std::int64_t> payload{1};
      group[which]->sum({fmt::format("a sum of group {}", which), ""}, payload);
      EXPECT_EQ(payload[0], 2);
    };
    for (int round = 0; round < 50; ++round) {
      if (rank == 0) {
        std::vector<std::string> outcomes(2);
        std::thread first([&] { outcomes[0] = outcome([&] { sum(0); }); });
        std::thread second([&] { outcomes[1] = outcome([&] { sum(1); }); });
        first.join();
        second.join();
        for (const std::string& text : outcomes) ASSERT_EQ(text, "ok");
        sum(2);
      } else {
        for (const std::size_t which : {1u, 0u, 2u}) ASSERT_EQ(outcome([&] { sum(which); }), "ok");
      }
    }
  });
}

TEST_F(Registry, ManyRanksAndGroupsStartInSeconds) {
  constexpr int kRanks = 64;
  constexpr int kGroups = 16;
  const auto start = std::chrono::steady_clock::now();
  run_ranks(kRanks, [&](int rank) {
    for (int g = 0; g < kGroups; ++g) {
      const std::vector<int> members = all_but(kRanks, 4 * g);
      if (rank != 4 * g) create_group(fmt::format("g{}", g), members);
    }
    EXPECT_EQ(sum_of(1, "world"), kRanks);
    for (int g = 0; g < kGroups; ++g) {
      if (rank == 4 * g) continue;
      EXPECT_EQ(sum_of(rank, fmt::format("g{}", g)), kRanks * (kRanks - 1) / 2 - 4 * g);
    }
  });
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("seconds", fmt::format("{:.2f}", seconds));
  EXPECT_LT(seconds, 60);
}

TEST_F(Registry, CreateGroupRefuses) {
  run_ranks(3, [](int rank) {
    create_group("g", {0, 1, 2});
    const auto refused = [](const std::string& name, const std::vector<int>& ranks) {
      return outcome([&] { create_group(name, ranks); });
    };
    EXPECT_EQ(refused("h", {}),
              "InvalidArgument: create_group: group 'h', ranks []: a group needs at least one rank");
    EXPECT_EQ(refused("", {0, 1, 2}),
              "InvalidArgument: create_group: group '', ranks [0, 1, 2]: a group needs a name");
    EXPECT_EQ(refused("h", {0, 1, 0}),
              "InvalidArgument: create_group: group 'h', ranks [0, 1, 0]: rank 0 is in it twice");
    EXPECT_EQ(refused("h", {0, 3}),
              "InvalidArgument: create_group: group 'h', ranks [0, 3]: rank 3 is outside [0, 3), the world");
    EXPECT_EQ(
        refused("h", {-1, 0}),
        "InvalidArgument: create_group: group 'h', ranks [-1, 0]: rank -1 is outside [0, 3), the world");
    EXPECT_EQ(refused("g", {0, 2, 1}),
              "InvalidArgument: create_group: group 'g', ranks [0, 2, 1]: the name is taken by a group of "
              "[0, 1, 2]");
    EXPECT_EQ(refused("world", {0, 1}),
              "InvalidArgument: create_group: group 'world', ranks [0, 1]: the name is taken by a group of "
              "[0, 1, 2]");
    if (rank == 2) {
      EXPECT_EQ(refused("h", {0, 1}),
                "GroupError: create_group: group 'h', ranks [0, 1]: this rank, 2, is no member; only members "
                "create a group");
    }
    const std::string text = outcome([] { get_rank("h"); });  // none of it left anything behind
    EXPECT_EQ(text, fmt::format("GroupError: group 'h' is unknown to rank {} (not created, destroyed, or "
                                "this rank is no member); it "
                                "has 'g', 'world'",
                                rank));
  });
}

TEST_F(Registry, DestroyGroup) {
  run_ranks(2, [](int) {
    create_group("g", {0, 1});
    const auto kept = resolve_group("g");
    destroy_group("g");
    EXPECT_EQ(outcome([] { get_rank("g"); }).rfind("GroupError: group 'g' is unknown to rank", 0), 0u);
    EXPECT_EQ(outcome([] { destroy_group("g"); }).rfind("GroupError: group 'g' is unknown to rank", 0), 0u);
    std::vector<std::int64_t> payload(1);
    EXPECT_EQ(outcome([&] {
                kept->sum({"a sum", ""}, payload);
              }),
              "GroupError: group 'g', a sum: the group is closed: destroy_group() was called");
    for (const std::vector<int>& list : {std::vector<int>{0, 1}, {1, 0}, {0, 1}}) {  // the name is free again
      create_group("g", list);
      EXPECT_EQ(get_world_rank_from_group_rank("g", 0), list[0]);
      EXPECT_EQ(sum_of(1, "g"), 2);
      destroy_group("g");
    }
    for (const char* world : {"world", "hccl_world_group"}) {
      EXPECT_EQ(
          outcome([&] { destroy_group(world); }),
          fmt::format("InvalidArgument: destroy_group: group '{}' is the world, which lasts until release()",
                      world));
    }
  });
}

// Groups of one name follow each other, on changing lists, and are used each time.
TEST_F(Registry, ANameMayBeUsedAgainAndAgain) {
  run_ranks(3, [](int rank) {
    for (int i = 0; i < 30; ++i) {
      const std::vector<std::vector<int>> lists = {{0, 1, 2}, {2, 1}, {1, 0, 2}, {0, 1}};
      const auto& list = lists[static_cast<std::size_t>(i) % lists.size()];
      if (std::ranges::find(list, rank) == list.end()) continue;
      create_group("g", list);
      std::vector<std::int64_t> payload{1};
      if (i % 3 != 0) resolve_group("g")->sum({"a sum", ""}, payload);  // some are never used
      EXPECT_EQ(payload[0], i % 3 == 0 ? 1 : static_cast<std::int64_t>(list.size()));
      destroy_group("g");
    }
  });
}

TEST_F(Registry, DifferentListsAreFoundAtTheFirstSum) {
  std::vector<std::string> outcomes(2);
  run_ranks(2, [&](int rank) {
    create_group("g", rank == 0 ? std::vector<int>{0, 1} : std::vector<int>{1, 0});
    std::vector<std::int64_t> payload(1);
    outcomes[static_cast<std::size_t>(rank)] = outcome([&] {
      resolve_group("g")->sum({"a sum", ""}, payload);
    });
  });
  EXPECT_EQ(
      outcomes[0],
      "MismatchError: group 'g', call 1, a sum, on rank 0: different lists under one name: world rank 1 "
      "made it of [1, 0], world rank 0 of [0, 1]; the group is broken");
  EXPECT_EQ(outcomes[1].rfind("MismatchError: group 'g', call 1, a sum, on rank 0: different lists", 0), 0u)
      << outcomes[1];
}

TEST_F(Registry, ConversionsRefuse) {
  run_ranks(3, [](int rank) {
    create_group("one", {rank});
    const int other = (rank + 1) % 3;
    EXPECT_EQ(outcome([] { get_world_rank_from_group_rank("one", 1); }),
              "GroupError: group_rank: 1, group 'one' has the ranks [0, 1)");
    EXPECT_EQ(outcome([] { get_world_rank_from_group_rank("one", -1); }),
              "InvalidArgument: group_rank: -1, expected a rank >= 0");
    EXPECT_EQ(outcome([] { get_world_rank_from_group_rank("world", 3); }),
              "GroupError: group_rank: 3, group 'world' has the ranks [0, 3)");
    EXPECT_EQ(outcome([&] { get_group_rank_from_world_rank(other, "one"); }),
              fmt::format("GroupError: world_rank: {} is not in group 'one', which has [{}]", other, rank));
    EXPECT_EQ(outcome([] { get_group_rank_from_world_rank(-1, "world"); }),
              "InvalidArgument: world_rank: -1, expected a rank >= 0");
    EXPECT_EQ(outcome([] { get_group_rank_from_world_rank(3, "world"); }),
              "GroupError: world_rank: 3 is not in group 'world', which has [0, 1, 2]");
    for (const char* unknown : {"", "nope", "WORLD"}) {
      for (const auto& [name, call] : calls_on(unknown)) {
        if (name == "create_group: ") continue;
        const std::string text = outcome(call);
        EXPECT_EQ(text.rfind(fmt::format("GroupError: group '{}' is unknown to rank {} ", unknown, rank), 0),
                  0u)
            << name << text;
      }
    }
    for (const char* world : {"world", "hccl_world_group", "nccl_world_group", "mccl_world_group"}) {
      EXPECT_EQ(get_world_rank_from_group_rank(world, other), other);
      EXPECT_EQ(get_group_rank_from_world_rank(other, world), other);
    }
  });
}

TEST_F(Registry, AGroupFromBeforeInitDoesNotOutliveIt) {
  const auto lone = resolve_group("world");
  init();  // a world of one: the same
  std::vector<std::int64_t> payload(1);
  lone->sum({"a sum", ""}, payload);
}

TEST_F(Registry, MakeGroup) {
  const auto world = std::make_shared<engines::ThreadWorld>(2);
  run_ranks(2, [&](int rank) {
    const auto group = make_group("own", world->connect({"x", {1, 0}, 0}, rank, testing::soon()), 60s);
    EXPECT_EQ(group->name(), "own");
    EXPECT_EQ(group->rank(), 1 - rank);
    std::vector<std::int64_t> payload{rank + 1};
    group->sum({"a sum", ""}, payload);
    group->sum({"a sum", ""}, payload);
    EXPECT_EQ(payload[0], 6);
  });
}

class OutOfRange final : public Communicator {
 public:
  OutOfRange(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::span<std::int64_t> buffer(std::size_t) override { return {}; }
  void start(std::size_t) override {}
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  const int rank_;
  const int size_;
};

TEST_F(Registry, MakeGroupRefuses) {
  const auto refused = [](const std::string& name, std::unique_ptr<Communicator> communicator,
                          std::optional<std::chrono::milliseconds> timeout = std::nullopt) {
    return outcome([&] { make_group(name, std::move(communicator), timeout); });
  };
  EXPECT_EQ(refused("own", nullptr), "InvalidArgument: communicator: null, group 'own' needs one");
  EXPECT_EQ(refused("", std::make_unique<OutOfRange>(0, 1)),
            "InvalidArgument: name: empty, expected a name for messages");
  for (const auto& [rank, size] : {std::pair{0, 0}, {2, 2}, {-1, 2}, {0, 65537}}) {
    EXPECT_EQ(refused("own", std::make_unique<OutOfRange>(rank, size)),
              fmt::format("InvalidArgument: communicator: rank {} of {} ranks, expected a rank in [0, size), "
                          "and a size in [1, 65536]",
                          rank, size));
  }
  EXPECT_EQ(refused("own", std::make_unique<OutOfRange>(0, 1), -1ms),
            "InvalidArgument: timeout: -1 ms, expected 1 to 1000000000000 ms");
}

TEST_F(Registry, AllReduceSumRefuses) {
  std::vector<float> values{1, 2};
  EXPECT_EQ(outcome([&] { all_reduce_sum(values, "dp"); }),
            "GroupError: group 'dp': not initialised; call init() first");
  std::vector<std::string> outcomes(2);
  run_ranks(2, [&](int rank) {
    std::vector<float> floats{1, 2};
    std::vector<double> doubles{1, 2};
    outcomes[static_cast<std::size_t>(rank)] = outcome([&] {
      if (rank == 0) all_reduce_sum(std::span(floats));
      if (rank == 1) all_reduce_sum(std::span(doubles));
    });
    EXPECT_EQ(floats, (std::vector<float>{1, 2}));
    EXPECT_EQ(doubles, (std::vector<double>{1, 2}));
  });
  EXPECT_EQ(
      outcomes[0],
      "MismatchError: group 'world', call 1, all_reduce_sum, on rank 0: different calls: rank 0 called "
      "all_reduce_sum (type=float32); rank 1 called all_reduce_sum (type=float64); the group is broken");
  EXPECT_EQ(outcomes[1].substr(outcomes[1].find("different")),
            outcomes[0].substr(outcomes[0].find("different")));
}

// control: with check() left out of all_reduce_sum.cpp the null data is read, and the peer waits.
TEST_F(Registry, AllReduceSumRefusesData) {
  float room[3] = {1, 2, 3};
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(room) + 1);
  const auto none = static_cast<float*>(nullptr);
  const struct {
    std::span<float> values;
    std::string text;
  } cases[] = {
      {{none, 2}, "values: null data, expected 2 of them"},
      {{odd, 2},
       fmt::format("values: data at {}, expected an address aligned to 4 bytes (float32)",
                   static_cast<void*>(odd))},
      {{room, (std::size_t{1} << 48) + 1}, "values: 281474976710657 of them, expected at most 2^48"},
      {{room, SIZE_MAX}, "values: 18446744073709551615 of them, expected at most 2^48"},
  };
  for (const auto& bad : cases) {
    std::vector<std::string> outcomes(2);
    run_ranks(2, [&](int rank) {
      std::vector<float> good{1, 2};
      outcomes[static_cast<std::size_t>(rank)] =
          outcome([&] { all_reduce_sum(rank == 0 ? bad.values : std::span(good)); });
      EXPECT_EQ(good, (std::vector<float>{1, 2}));
    });
    EXPECT_EQ(outcomes[0], "InvalidArgument: " + bad.text);
    EXPECT_EQ(outcomes[1],
              "PeerError: group 'world', call 1, all_reduce_sum, on rank 1: rank 0 failed before its call: " +
                  bad.text + "; the group is broken");
    EXPECT_EQ(room[0] + room[1] + room[2], 6);
  }
  run_ranks(2, [](int) { all_reduce_sum(std::span<float>()); });
}

TEST_F(Registry, FindEngine) {
  static const engines::EngineEntry entry{"registry-test", nullptr};
  engines::register_engine(entry);
  EXPECT_EQ(&engines::find_engine("registry-test"), &entry);
  const std::string text = outcome([] { engines::find_engine("nonesuch"); });
  EXPECT_EQ(text.rfind("GroupError: engine 'nonesuch' is not linked into this program, which has ", 0), 0u)
      << text;
  EXPECT_NE(text.find("registry-test; link with syncbn::nonesuch"), std::string::npos) << text;
}

}  // namespace
}  // namespace syncbn
