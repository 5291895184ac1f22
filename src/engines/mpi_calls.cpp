// SPDX-License-Identifier: Apache-2.0
#include "engines/mpi_calls.h"

#include <fmt/core.h>

#include <atomic>

namespace syncbn::engines {
namespace {

std::atomic<int> open_requests{0};
std::atomic<bool> peer_is_missing{false};

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw PeerError(fmt::format("{}: {}", call, text));
}

bool is_mpi_finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

TimeoutError missing_peer(const std::string& text) {
  peer_is_missing = true;
  return TimeoutError(text);
}

bool is_peer_missing() { return peer_is_missing; }

void Request::started(int code, const char* call) {
  check_mpi(code, call);
  call_ = call;
  in_flight_ = true;
  ++open_requests;
}

bool Request::test() {
  int done = 0;
  const int code = MPI_Test(&request_, &done, MPI_STATUS_IGNORE);
  if (code == MPI_SUCCESS && done == 0) return false;
  in_flight_ = false;
  --open_requests;
  check_mpi(code, call_);
  return true;
}

int requests_in_flight() { return open_requests; }

}  // namespace syncbn::engines
