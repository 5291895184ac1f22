// SPDX-License-Identifier: Apache-2.0

// Layers and their groups: released and destroyed ones, several at once, engines of the caller's own, and
// calls that are no layer's.
//
// control: with the group's name looked up at each call instead of at construction, TwoGroupsFromTwoThreads
// fails (the threads have no world); with Group::close made empty, ReleasedGroup and DestroyedGroup; with
// Saved written before the group's sum, EngineErrorsChangeNothing.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "environment/environment.h"
#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

using namespace std::chrono_literals;

Call batch_of(float first) { return Call({2, 2}, {first, first + 1, first + 3, first - 4}); }

TEST(LayerGroups, NamesOfLayers) {
  SyncBatchNormOptions named;
  named.name = "bn1";
  EXPECT_EQ(outcomes(2,
                     [&](int) {
                       EXPECT_EQ("", SyncBatchNorm(1).name());
                       EXPECT_EQ("bn1", SyncBatchNorm(1, named).name());
                     }),
            all(2, "ok"));
  EXPECT_EQ("", SyncBatchNorm(1).name());
  EXPECT_EQ("bn1", SyncBatchNorm(1, named).name());
}

// Training is over, evaluation goes on.
void expect_gone(SyncBatchNorm& layer, Call& call, const std::string& group) {
  const Snapshot before = snapshot(layer);
  for (const bool forward : {true, false}) {
    expect_error<GroupError>([&] { forward ? call.forward(layer) : call.backward(layer); },
                             {"'" + group + "'"});
    EXPECT_EQ(snapshot(layer), before);
  }
  layer.set_train(false);
  call.forward(layer);
  call.backward(layer);
}

TEST(LayerGroups, ReleasedGroup) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       SyncBatchNorm layer(2);
                       Call call = batch_of(static_cast<float>(rank));
                       call.forward(layer);
                       release();
                       expect_gone(layer, call, "world");
                     }),
            all(2, "ok"));
}

TEST(LayerGroups, DestroyedGroup) {
  EXPECT_EQ(outcomes(2,
                     [](int rank) {
                       create_group("pair", {0, 1});
                       SyncBatchNormOptions options;
                       options.process_group = "pair";
                       SyncBatchNorm layer(2, options);
                       Call call = batch_of(static_cast<float>(rank));
                       call.forward(layer);
                       destroy_group("pair");
                       expect_gone(layer, call, "pair");
                       create_group("pair", {0, 1});  // another group: the layer's stays closed
                       layer.set_train();
                       expect_error<GroupError>([&] { call.forward(layer); }, {"'pair'"});
                     }),
            all(2, "ok"));
}

// Each rank trains a layer of each group on a thread of its own, at the same time.
TEST(LayerGroups, TwoGroupsFromTwoThreads) {
  static constexpr int kSteps = 20;
  EXPECT_EQ(outcomes(3,
                     [](int rank) {
                       create_group("backwards", {2, 1, 0});
                       SyncBatchNormOptions options;
                       options.process_group = "backwards";
                       SyncBatchNorm layers[] = {SyncBatchNorm(1), SyncBatchNorm(1, options)};
                       std::string seen[2];
                       std::vector<std::thread> threads;
                       for (std::size_t k = 0; k < 2; ++k) {
                         threads.emplace_back([&, k] {
                           seen[k] = outcome([&] {
                             for (int step = 0; step < kSteps; ++step) {
                               const auto x = static_cast<float>(rank + 100 * static_cast<int>(k) + step);
                               Call call({1, 1}, {x});
                               call.forward(layers[k]);
                               call.backward(layers[k]);
                               ASSERT_EQ(layers[k].saved().mean[0], 1 + 100 * static_cast<double>(k) + step);
                             }
                           });
                         });
                       }
                       for (std::thread& thread : threads) thread.join();
                       for (std::size_t k = 0; k < 2; ++k) {
                         EXPECT_EQ(seen[k], "ok");
                         EXPECT_EQ(layers[k].values<std::int64_t>("num_batches_tracked")[0], kSteps);
                       }
                     }),
            all(3, "ok"));
}

TEST(LayerGroups, ACallOfAllReduceSumIsAnotherCall) {
  run_ranks(2, [](int rank) {
    SyncBatchNorm layer(2);
    const Snapshot fresh = snapshot(layer);
    DeviceVector<float> values(8, 1.0F);
    const std::string text = outcome([&] {
      if (rank == 1) return all_reduce_sum(std::span<float>(values));
      batch_of(1).forward(layer);
    });
    EXPECT_EQ(snapshot(layer), fresh);
    EXPECT_EQ(values, DeviceVector<float>(8, 1.0F));
    expect_error<GroupError>([&] { batch_of(1).forward(layer); }, {"'world'"});
    expect_error<MismatchError>(
        text, {"'world'", "call 1", "rank 0 ... forward ... unnamed layer", "rank 1 ... all_reduce_sum"});
  });
}

// In the middle of a training loop, where the lengths of messages have been learnt.
TEST(LayerGroups, ALateMismatch) {
  std::vector<std::string> seen(3);
  run_ranks(3, [&](int rank) {
    SyncBatchNorm small(2), large(40);
    Call few = batch_of(static_cast<float>(rank));
    Call many({1, 40}, DeviceVector<float>(40, static_cast<float>(rank)));
    for (int step = 0; step < 3; ++step) {
      few.forward(small);
      many.forward(large);
      many.backward(large);
      few.backward(small);
    }
    few.forward(small);
    const Snapshot before = snapshot(large);
    seen[static_cast<std::size_t>(rank)] =
        outcome([&] { rank == 2 ? few.backward(small) : many.forward(large); });
    EXPECT_EQ(snapshot(large), before);
  });
  for (const std::string& outcome : seen) {
    expect_error<MismatchError>(outcome, {"'world'", "call 14", "rank 2 ... backward ... unnamed layer",
                                          "C=40", "ranks 0-1 ... forward ... unnamed layer"});
  }
}

// Of more ranks than this process has joined, by its environment.
TEST(LayerGroups, WithoutInitAmongSeveralRanks) {
  const Environment environment({{"RANK", "0"},
                                 {"WORLD_SIZE", "2"},
                                 {"LOCAL_RANK", "0"},
                                 {"MASTER_ADDR", "127.0.0.1"},
                                 {"MASTER_PORT", "9"}});
  SyncBatchNorm layer(2);
  const Snapshot fresh = snapshot(layer);
  Call call = batch_of(1);
  expect_error<GroupError>([&] { call.forward(layer); }, {"'world'", "init()"});
  EXPECT_EQ(snapshot(layer), fresh);
  layer.set_train(false);
  call.forward(layer);
  call.backward(layer);
}

TEST(LayerGroups, WithoutInitAlone) {
  const Environment environment({});
  SyncBatchNorm layer(2);
  Call call = batch_of(1);
  call.forward(layer);
  call.backward(layer);
  EXPECT_EQ(layer.saved().count, 2);
}

// An engine as a user would write one: ranks meet at a table and add.
struct Table {
  explicit Table(int ranks) : size(ranks) {}
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::int64_t> sums;
  int arrived = 0, taken = 0;
};

class TableCommunicator : public Communicator {
 public:
  TableCommunicator(std::shared_ptr<Table> table, int rank) : table_(std::move(table)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return table_->size; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (words_.size() < words) words_.resize(words);
    return words_;
  }
  void start(std::size_t words) override {
    std::unique_lock lock(table_->mutex);
    table_->changed.wait(lock, [&] { return table_->taken == 0; });  // the last sum is with everybody
    table_->sums.resize(words);
    for (std::size_t i = 0; i < words; ++i) table_->sums[i] += words_[i];
    ++table_->arrived;
    table_->changed.notify_all();
  }
  void wait(Deadline deadline) override {
    std::unique_lock lock(table_->mutex);
    if (!table_->changed.wait_until(lock, deadline, [&] { return table_->arrived == table_->size; })) {
      throw TimeoutError("nobody came");
    }
    std::copy(table_->sums.begin(), table_->sums.end(), words_.begin());
    if (++table_->taken == table_->size) {
      table_->sums.clear();
      table_->arrived = table_->taken = 0;
    }
    table_->changed.notify_all();
  }
  void abort() noexcept override {}

 private:
  const std::shared_ptr<Table> table_;
  const int rank_;
  std::vector<std::int64_t> words_;
};

TEST(LayerGroups, AnEngineOfTheCallersOwn) {
  constexpr int kRanks = 3;
  const auto train = [](SyncBatchNorm& layer, int rank) {
    for (int step = 0; step < 3; ++step) {
      Call call = batch_of(static_cast<float>(rank * rank + step) / 3);
      call.forward(layer);
      call.backward(layer);
    }
    return snapshot(layer);
  };
  std::vector<Snapshot> expected(kRanks), actual(kRanks);
  run_ranks(kRanks, [&](int rank) {
    SyncBatchNorm layer(2);
    expected[static_cast<std::size_t>(rank)] = train(layer, rank);
  });
  const auto table = std::make_shared<Table>(kRanks);
  std::vector<std::thread> ranks;
  std::vector<std::string> seen(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto r = static_cast<std::size_t>(rank);
      seen[r] = outcome([&] {
        SyncBatchNormOptions options;
        options.process_group = make_group("mine", std::make_unique<TableCommunicator>(table, rank), 60s);
        SyncBatchNorm layer(2, options);
        actual[r] = train(layer, rank);
        // Its mismatches are told like any other's.
        SyncBatchNorm other(rank == 1 ? 1 : 2, options);
        Call call({2, other.num_features()}, DeviceVector<float>(rank == 1 ? 2 : 4, 1.0F));
        expect_error<MismatchError>([&] { call.forward(other); },
                                    {"'mine'", "call 7", "rank 1 ... forward ... unnamed layer ... C=1"});
      });
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(seen, all(kRanks, "ok"));
  EXPECT_EQ(expected, actual);
}

// Sums well for a while, then not. A group's first sums compare versions and find out about shared memory.
class FailingCommunicator : public Communicator {
 public:
  FailingCommunicator(int good, std::function<void()> fail) : good_(good), fail_(std::move(fail)) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (words_.size() < words) words_.resize(words);
    return words_;
  }
  void start(std::size_t words) override {
    for (std::size_t i = 0; i < words; ++i) {  // the other rank brings the same; sums wrap
      words_[i] = static_cast<std::int64_t>(2 * static_cast<std::uint64_t>(words_[i]));
    }
  }
  void wait(Deadline) override {
    if (good_-- == 0) fail_();
  }
  void abort() noexcept override {}

 private:
  int good_;
  const std::function<void()> fail_;
  std::vector<std::int64_t> words_;
};

TEST(LayerGroups, EngineErrorsChangeNothing) {
  using Check = std::function<void(const std::function<void()>&)>;
  const std::pair<std::function<void()>, Check> cases[] = {
      {[] { throw TimeoutError("no answer"); },
       [](const auto& call) {
         expect_error<TimeoutError>(call, {"'mine'", "call 3", "forward ... unnamed layer", "rank 0"});
       }},
      {[] { throw PeerError("connection reset"); },
       [](const auto& call) {
         expect_error<PeerError>(
             call, {"'mine'", "call 3", "forward ... unnamed layer", "rank 0 ... connection reset"});
       }},
      {[] { throw std::runtime_error("cable"); },
       [](const auto& call) {
         try {
           ADD_FAILURE() << outcome(call);
         } catch (const std::runtime_error& error) {
           EXPECT_STREQ(error.what(), "cable");
         }
       }},
  };
  for (const auto& [fail, check] : cases) {
    SyncBatchNormOptions options;
    options.process_group = make_group("mine", std::make_unique<FailingCommunicator>(4, fail));
    SyncBatchNorm layer(2, options);
    Call call = batch_of(1);
    call.forward(layer);
    call.backward(layer);
    EXPECT_EQ(layer.saved().count, 4);
    const Snapshot before = snapshot(layer);
    check([&] { batch_of(7).forward(layer); });
    EXPECT_EQ(snapshot(layer), before);
    expect_error<GroupError>([&] { call.backward(layer); },
                             {"'mine'", "backward ... unnamed layer", "broken ... call 3"});
    EXPECT_EQ(snapshot(layer), before);
  }
}

}  // namespace
}  // namespace syncbn::testing
