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

/// What Gloo's exception says, without the place in Gloo's sources before it.
std::string plain_text(const std::exception& error);

/// Sums over a connected Gloo context. Gloo's all-reduce blocks, so one helper thread makes the calls; what
/// both threads touch stays alive with either. Connections stay open after an error until the communicator
/// goes: a rank that is late may still finish the sum that the others gave up, and blames nobody for what it
/// merely saw second. A rank that leaves says farewell, so that what its peers see as a death is one.
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
  void say_farewell(std::int64_t word) noexcept;
  void close_connections() noexcept;

  std::shared_ptr<Shared> shared_;
  GlooAttendance attendance_;
  std::int64_t sums_ = 0;  // begun
  std::int64_t farewell_ = 0;
  std::vector<std::int64_t> farewells_;  // the peers', by rank; 0: none yet
  Buffers lifelines_;                    // what receives them, by rank
  Buffers sent_;                         // what sends this rank's
  std::thread helper_;
};

}  // namespace syncbn::engines
