// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/file_descriptor.h"
#include "launch/plan.h"

/// Messages from a job's supervisor to the process that started it. A SOCK_SEQPACKET socket keeps the borders
/// of messages. Both ends run the same program, so a message is the bytes of a Status and a text.
namespace syncbn::launch {

/// Progress of the job. `started`, `joined` and `ended` count workers of this node.
struct Progress {
  int workers_arrived = 0;  ///< Workers of the whole job whose launchers have arrived.
  int started = 0;
  int joined = 0;  ///< Workers that have called init() of syncbn.
  int ended = 0;
  bool operator==(const Progress&) const = default;
};
/// All workers of this node were started.
struct Started {
  Placement placement;
};
/// Lines for people, in StatusMessage::text. A long report arrives in several messages.
struct Report {};
/// Lines for people to show at once, in StatusMessage::text.
struct Notice {};
/// The job starts again for the `restart`-th time; the report before it says why.
struct Restarting {
  int restart = 0;
};
/// The supervisor now runs on its own: the process that started it may end.
struct Detached {};

using Status = std::variant<Progress, Started, Report, Notice, Restarting, Detached>;

struct StatusMessage {
  Status status;
  std::string text;  ///< The lines of a Report or Notice.
};

/// The two ends of a new socket: receiver, sender. @throws std::system_error
std::pair<base::Fd, base::Fd> status_socket();

/// Waits until the socket has room. A message to a process that has ended is dropped.
void send_status(int socket, const Status& status);
void send_report(int socket, std::string_view text);
/// Sends the message, or drops it if the socket is full.
void send_if_room(int socket, const Status& status, std::string_view text = "");
/// Waits for a message. None if the sender has closed its end.
std::optional<StatusMessage> receive_status(int socket);

}  // namespace syncbn::launch
