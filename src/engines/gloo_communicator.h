// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gloo/context.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
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
class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(std::shared_ptr<gloo::Context> context, GlooAttendance attendance);
  ~GlooCommunicator() override;

  int rank() const override;
  int size() const override;
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override;

 private:
  struct Shared;
  using Buffers = std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>>;

  static void help(Shared& shared);
  std::string departures();
  void send_farewell(std::int64_t word) noexcept;
  void close_connections() noexcept;

  std::shared_ptr<Shared> shared_;
  GlooAttendance attendance_;
  std::int64_t sums_ = 0;  // number of started sums
  std::int64_t farewell_ = 0;
  std::vector<std::int64_t> farewells_;  // of the peers, by rank; 0: not received
  Buffers farewell_receives_;            // by rank
  Buffers farewell_sends_;
  std::thread helper_;
};

}  // namespace syncbn::engines
