// SPDX-License-Identifier: Apache-2.0
// Handing an open file to other processes of the host.
#include "engines/file_handoff.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "rank_processes.h"
#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using testing::RankProcesses;

Deadline soon() { return Clock::now() + std::chrono::seconds(20); }

std::string name_of(const HandoffTicket& ticket) {
  return fmt::format("syncbn-{:016x}{:016x}", ticket.name[0], ticket.name[1]);
}

// A connection of a process that does not know the secret.
base::Fd stranger(const HandoffTicket& ticket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = name_of(ticket);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  base::Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  EXPECT_EQ(connect(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  return socket;
}

class Handoff : public ::testing::Test {
 protected:
  Handoff() { EXPECT_EQ(write(file_.get(), "token", 5), 5); }
  // A process that fetches the file and reads it.
  static std::string fetch(const HandoffTicket& ticket) {
    const base::Fd file = receive_file(ticket, soon());
    char text[6] = "";
    return pread(file.get(), text, 5, 0) == 5 ? text : "unreadable";
  }

  const base::Fd file_{memfd_create("test", MFD_CLOEXEC)};
  FileHandoff handoff_;
};

TEST_F(Handoff, EveryReceiverGetsTheFile) {
  RankProcesses receivers(5, [&](int) { return fetch(handoff_.ticket()); });
  handoff_.hand_to(5, file_.get(), soon());
  for (int rank = 0; rank < 5; ++rank) EXPECT_EQ(receivers.outcome(rank), "token");
}

// One sends nothing, one leaves at once, one guesses; the receiver behind them gets the file.
TEST_F(Handoff, StrangersGetNothingAndDelayLittle) {
  const base::Fd silent = stranger(handoff_.ticket());
  stranger(handoff_.ticket());
  const base::Fd guesses = stranger(handoff_.ticket());
  const std::array<std::uint64_t, 2> guess{1, 2};
  ASSERT_EQ(send(guesses.get(), guess.data(), sizeof guess, 0), static_cast<ssize_t>(sizeof guess));
  RankProcesses receiver(1, [&](int) { return fetch(handoff_.ticket()); });
  handoff_.hand_to(1, file_.get(), soon());
  EXPECT_EQ(receiver.outcome(0), "token");
  for (const base::Fd* socket : {&silent, &guesses}) {
    char byte;
    EXPECT_EQ(recv(socket->get(), &byte, 1, 0), 0) << "expected a closed connection";
  }
}

TEST_F(Handoff, WrongSecretIsRefused) {
  HandoffTicket wrong = handoff_.ticket();
  ++wrong.secret[1];
  RankProcesses receivers(2, [&](int rank) { return fetch(rank == 0 ? wrong : handoff_.ticket()); });
  handoff_.hand_to(1, file_.get(), soon());
  EXPECT_EQ(receivers.outcome(1), "token");
}

TEST_F(Handoff, AnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  RankProcesses other(1, [&](int) -> std::string {
    if (setresuid(12345, 12345, 12345) != 0) return "setresuid";
    return fetch(handoff_.ticket());
  });
  EXPECT_EQ(other.outcome(0), "PeerError: the shared memory is offered by another user");
  try {
    handoff_.hand_to(1, file_.get(), Clock::now() + milliseconds(300));
    ADD_FAILURE() << "expected a TimeoutError";
  } catch (const TimeoutError& error) {
    EXPECT_STREQ(error.what(), "1 processes did not fetch the shared memory");
  }
}

// control: with a listener, connect() succeeds.
TEST_F(Handoff, NothingIsLeftOfTheSocket) {
  const auto listed = [](const std::string& name) {
    std::ifstream file("/proc/net/unix");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    return text.find(name) != std::string::npos;
  };
  std::optional<FileHandoff> other(std::in_place);
  const HandoffTicket ticket = other->ticket();
  EXPECT_TRUE(listed(name_of(ticket)));
  other.reset();
  EXPECT_FALSE(listed(name_of(ticket)));
  EXPECT_THROW(receive_file(ticket, soon()), std::system_error);
}

}  // namespace
}  // namespace syncbn::engines
