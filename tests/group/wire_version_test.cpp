// SPDX-License-Identifier: Apache-2.0

// Ranks of different versions of the library get an error before they send messages of unequal lengths.
#include "group/wire_version.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../ranks.h"
#include "syncbn/framework.h"

namespace syncbn {
namespace {

using testing::expect_error;
using testing::on_ranks;
using testing::soon;

TEST(WireVersion, OneVersionIsNoError) {
  for (const std::string& outcome :
       on_ranks(3, [](Communicator& all) { group::check_wire_version(all, soon()); }))
    EXPECT_EQ(outcome, "ok");
}

TEST(WireVersion, RanksOfEachVersionAreNamedOnEveryRank) {
  const auto seen =
      on_ranks(4, [](Communicator& all) { group::check_wire_version(all, soon(), all.rank() == 2 ? 7 : 6); });
  for (const std::string& outcome : seen)
    expect_error<MismatchError>(outcome, {"6 on ranks 0-1, 3", "7 on rank 2", "the same version"});
}

// A peer of another version, as the first sums of a connection show it.
class NewerPeer final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    words_.resize(std::max(words, words_.size()));
    return words_;
  }
  void start(std::size_t words) override {
    constexpr std::int64_t kNewer = group::kWireVersion + 1;
    if (words == 3) {
      words_[0] += 1;
      words_[1] += kNewer;
      words_[2] += kNewer * kNewer;
    } else {
      words_[1] += kNewer;
    }
  }
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  std::vector<std::int64_t> words_;
};

// control: without the check in share_memory_of_hosts() the ranks' introductions are compared.
TEST(WireVersion, AGroupOverAProgramsOwnEngineChecksIt) {
  SyncBatchNormOptions options;
  options.process_group = make_group("mixed", std::make_unique<NewerPeer>());
  SyncBatchNorm layer(1, options);
  const std::vector<float> x{1, 2};
  std::vector<float> y(2);
  expect_error<MismatchError>(
      [&] {
        layer.forward({.x = view(x, Shape{2, 1}), .y = view(y, Shape{2, 1})});
      },
      {"group 'mixed'", "version", "rank 1", "the same version"});
}

}  // namespace
}  // namespace syncbn
