#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engines/mpi_calls.h"
#include "syncbn/communicator.h"

namespace syncbn::engines {

/// Sums over an MPI communicator, which it owns.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm);
  ~MpiCommunicator() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::span<std::int64_t> buffer(std::size_t words) override;
  void start(std::size_t words) override;
  void wait(Deadline deadline) override;
  void abort() noexcept override { given_up_ = true; }

 private:
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
  std::unique_ptr<std::vector<std::int64_t>> buffer_;
  Request request_;
  std::atomic<bool> given_up_{false};
};

}  // namespace syncbn::engines
