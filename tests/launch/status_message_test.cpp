// SPDX-License-Identifier: Apache-2.0

// What the supervisor tells the process that started it.
#include "launch/status_message.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace syncbn::launch {
namespace {

std::string shown(const StatusMessage& message) {
  struct Show {
    std::string operator()(const Progress& p) const {
      return "progress " + std::to_string(p.workers_arrived) + ' ' + std::to_string(p.started) + ' ' +
             std::to_string(p.joined) + ' ' + std::to_string(p.ended);
    }
    std::string operator()(const Started& started) const {
      const Placement& p = started.placement;
      return "started " + std::to_string(p.node) + ' ' + std::to_string(p.node_count) + ' ' +
             std::to_string(p.first_rank);
    }
    std::string operator()(const Report&) const { return "report "; }
    std::string operator()(const Notice&) const { return "notice "; }
    std::string operator()(const Restarting& restarting) const {
      return "restart " + std::to_string(restarting.restart);
    }
    std::string operator()(const Detached&) const { return "detached"; }
  };
  return std::visit(Show{}, message.status) + message.text;
}

std::vector<std::string> received(int socket) {
  std::vector<std::string> messages;
  while (const auto message = receive_status(socket)) messages.push_back(shown(*message));
  return messages;
}

TEST(StatusMessages, ArriveAsTheyWereSent) {
  auto [receiver, sender] = status_socket();
  send_if_room(sender.get(), Progress{4, 3, 2, 1});
  send_status(sender.get(), Started{{1, 3, 65535}});
  send_report(sender.get(), {"a\0b\n", 4});
  send_report(sender.get(), "");
  send_report(sender.get(), "c");
  send_status(sender.get(), Progress{});
  send_status(sender.get(), Restarting{3});
  send_status(sender.get(), Detached{});
  sender = base::Fd();
  EXPECT_EQ(
      received(receiver.get()),
      (std::vector<std::string>{"progress 4 3 2 1", "started 1 3 65535", std::string("report a\0b\n", 11),
                                "report c", "progress 0 0 0 0", "restart 3", "detached"}));
}

TEST(StatusMessages, ALongReportArrivesWhole) {
  std::string text;
  for (int line = 0; text.size() < 100'000; ++line) text += std::to_string(line) + '\n';
  auto [receiver, sender] = status_socket();
  send_report(sender.get(), text);
  send_status(sender.get(), Detached{});
  sender = base::Fd();
  std::string arrived;
  int pieces = 0;
  for (auto message = receive_status(receiver.get());
       message && std::holds_alternative<Report>(message->status);
       message = receive_status(receiver.get()), ++pieces)
    arrived += message->text;
  EXPECT_EQ(arrived, text);
  EXPECT_GT(pieces, 1) << "control: the text is longer than one message";
}

TEST(StatusMessages, ProgressNeverWaitsForTheReceiver) {
  // control: send_status in place of send_if_room waits for ever.
  auto [receiver, sender] = status_socket();
  constexpr int kSent = 10'000;
  for (int i = 0; i < kSent; ++i) send_if_room(sender.get(), Progress{i, 0, 0, 0});
  sender = base::Fd();
  const std::vector<std::string> messages = received(receiver.get());
  EXPECT_LT(messages.size(), std::size_t{kSent}) << "some were dropped";
  for (std::size_t i = 0; i < messages.size(); ++i)
    ASSERT_EQ(messages[i], "progress " + std::to_string(i) + " 0 0 0");
}

TEST(StatusMessages, ToAReceiverThatIsGoneAreDropped) {
  auto [receiver, sender] = status_socket();
  receiver = base::Fd();
  send_status(sender.get(), Detached{});
  send_report(sender.get(), "nobody reads this");
}

}  // namespace
}  // namespace syncbn::launch
