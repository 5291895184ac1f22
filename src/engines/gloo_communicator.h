// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gloo/context.h>

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engines/gloo_attendance.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Text of an exception, without the position in Gloo's sources that starts the texts of Gloo's exceptions.
std::string plain_text(const std::exception& error);

/// Sums over a connected Gloo context. Gloo's all-reduce blocks, so a helper thread makes the calls. The two
/// threads share the ownership of the state that both use. After an error the connections stay open until the
/// communicator is destroyed: a late rank can still complete a sum that the others gave up, and does not
/// blame a peer for an error that it merely saw second. A rank that leaves sends a farewell on each
/// connection. A connection that ends without a farewell means that the peer died.
class GlooCommunicator final : public MultiHostCommunicator {
 public:
  /// Connects the given ranks, which name them in messages.
  using ConnectLeaders =
      std::function<std::unique_ptr<MultiHostCommunicator>(const std::vector<int>& ranks, Deadline deadline)>;

  /// `names`: the numbers of the context's ranks in messages.
  GlooCommunicator(std::shared_ptr<gloo::Context> context, GlooAttendance attendance, std::vector<int> names);
  ~GlooCommunicator() override;

  int rank() const override;
  int size() const override;
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override { give_up(""); }

  std::unique_ptr<MultiHostCommunicator> connect_leaders(const std::vector<int>& ranks,
                                                         Deadline deadline) override {
    return connect_leaders_(ranks, deadline);
  }
  void set_connect_leaders(ConnectLeaders connect) { connect_leaders_ = std::move(connect); }
  bool sums_in_background() const override { return true; }
  // The store counts these sums on from the sums that this communicator has carried.
  void report_waiting(std::int64_t sum) override { attendance_.report_waiting(sums_ + sum); }
  std::vector<int> absent_from(std::int64_t sum) override { return attendance_.absent_from(sums_ + sum); }
  void give_up(const std::string& reason) noexcept override;
  void check_peers() override;

 private:
  struct Shared;
  // The last message on a connection. Its text comes first, so that it is there when the word is.
  struct Farewell {
    std::array<char, 504> reason;
    std::int64_t word;  // 0: not received
  };
  using Buffers = std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>>;

  static void help(Shared& shared);
  std::string departures(std::int64_t sum);
  void send_farewell(std::int64_t word, const std::string& reason) noexcept;
  void close_connections() noexcept;

  std::shared_ptr<Shared> shared_;
  GlooAttendance attendance_;
  const std::vector<int> names_;
  ConnectLeaders connect_leaders_;
  std::int64_t sums_ = 0;  // number of started sums
  Farewell farewell_{};
  std::vector<Farewell> farewells_;  // of the peers, by rank
  Buffers farewell_receives_;        // by rank
  Buffers farewell_sends_;
  std::thread helper_;
};

}  // namespace syncbn::engines
