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

#include "syncbn/communicator.h"

namespace syncbn::group {

/// What Gloo's exception says, without the place in Gloo's sources before it.
std::string plain_text(const std::exception& error);

/// Sums over a connected Gloo context. Gloo's all-reduce blocks, so one helper thread makes the calls; what
/// both threads touch stays alive with either. Connections stay open after an error until the communicator
/// goes: a rank that is late may still finish the sum that the others gave up, and blames nobody for what it
/// merely saw second.
class GlooCommunicator final : public Communicator {
 public:
  explicit GlooCommunicator(std::shared_ptr<gloo::Context> context);
  ~GlooCommunicator() override;

  int rank() const override;
  int size() const override;
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override;

 private:
  struct Shared;
  struct Lifeline {
    int peer;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer;
  };

  static void help(Shared& shared);
  std::vector<int> lost_peers() const;
  void close_connections() noexcept;

  std::shared_ptr<Shared> shared_;
  std::int64_t lifeline_word_ = 0;
  std::vector<Lifeline> lifelines_;
  std::thread helper_;
};

}  // namespace syncbn::group
