// SPDX-License-Identifier: Apache-2.0
#pragma once

#define OMPI_SKIP_MPICXX 1  // the deprecated C++ bindings need a separate library
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <chrono>
#include <string>
#include <thread>

#include "base/interrupt.h"
#include "syncbn/communicator.h"
#include "syncbn/error.h"

/// MPI calls with deadlines. One source serves every MPI: component mpi is compiled against the MPI that
/// CMake finds, component mpich against MPICH.
namespace syncbn::engines {

/// @throws PeerError with MPI's text if `code`, the result of `call`, is not MPI_SUCCESS
void check_mpi(int code, const char* call);

bool is_mpi_finalized();

/// The error of an operation that a peer has not joined by the deadline. Sets is_peer_missing(): MPI_Finalize
/// waits for all ranks, and that peer may never come.
TimeoutError missing_peer(const std::string& text);
bool is_peer_missing();

/// A non-blocking operation.
class Request {
 public:
  Request() = default;
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  /// Last argument of the MPI function that starts the operation. Its result must be passed to started().
  MPI_Request* get() { return &request_; }
  /// @throws PeerError
  void started(int code, const char* call);
  bool in_flight() const { return in_flight_; }
  /// True if the operation has completed. @throws PeerError
  bool test();

 private:
  MPI_Request request_ = MPI_REQUEST_NULL;
  const char* call_ = "";
  bool in_flight_ = false;
};
/// Number of requests in flight in this process. MPI_Finalize would wait for a request that was abandoned at
/// a deadline, and for its peers.
int requests_in_flight();

/// Calls `done` until it returns true. Returns false if the deadline passes first. Two processes complete a
/// sum in microseconds, so the function spins for a millisecond and yields the core to other threads. A
/// longer wait is a wait for a slow peer, so the function then sleeps between two calls. @throws Interrupted
template <class Done>
bool poll_until(Deadline deadline, Done done) {
  using Clock = std::chrono::steady_clock;
  constexpr int kTries = 500;  // about 20 µs
  bool completed = done();
  const auto spin_until = Clock::now() + std::chrono::milliseconds(1);
  while (!completed && Clock::now() < spin_until) {
    for (int i = 0; i < kTries && !completed; ++i) completed = done();
    if (!completed) std::this_thread::yield();
  }
  for (int naps = 1; !completed; ++naps) {
    if (Clock::now() >= deadline) return false;
    if (naps % 1000 == 0) base::check_interrupt();  // 1,000 naps take 50 ms or more
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    completed = done();
  }
  return true;
}

}  // namespace syncbn::engines
