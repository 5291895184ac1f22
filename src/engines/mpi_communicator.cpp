#include "engines/mpi_communicator.h"

#include <fmt/format.h>

#include <limits>

namespace syncbn::engines {

MpiCommunicator::MpiCommunicator(MPI_Comm comm)
    : comm_(comm), buffer_(std::make_unique<std::vector<std::int64_t>>()) {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
}

MpiCommunicator::~MpiCommunicator() {
  if (request_.in_flight())
    static_cast<void>(buffer_.release());  // leaked on purpose, because MPI may still write to it
  else if (!is_mpi_finalized())
    MPI_Comm_free(&comm_);
}

std::span<std::int64_t> MpiCommunicator::buffer(std::size_t words) {
  if (buffer_->size() < words) buffer_->resize(words);
  return {buffer_->data(), words};
}

void MpiCommunicator::start(std::size_t words) {
  if (words > std::numeric_limits<int>::max())
    throw InvalidArgument(
        fmt::format("a message of {} words, allowed are at most {}", words, std::numeric_limits<int>::max()));
  const int count = static_cast<int>(words);
  // Unsigned, so that sums wrap.
  request_.started(
      MPI_Iallreduce(MPI_IN_PLACE, buffer_->data(), count, MPI_UINT64_T, MPI_SUM, comm_, request_.get()),
      "MPI_Iallreduce");
}

void MpiCommunicator::wait(Deadline deadline) {
  const bool settled = poll_until(deadline, [this] { return given_up_ || request_.test(); });
  if (given_up_) throw PeerError("this rank gave the sum up");
  if (!settled) throw missing_peer("no sum by the deadline");
}

}  // namespace syncbn::engines
