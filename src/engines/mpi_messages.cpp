#include "engines/mpi_messages.h"

#include <list>
#include <mutex>

namespace syncbn::engines {
namespace {

struct Message {
  std::string text;
  Request request;
};

// Messages of all groups that are in flight. Never destroyed, because some may be in flight at the end of the
// process.
struct Outbox {
  std::mutex mutex;  // guards the list
  std::list<Message> messages;
};
Outbox& outbox() {
  static auto* const box = new Outbox;
  return *box;
}

}  // namespace

void send_text(MPI_Comm world, const std::vector<int>& peers, int tag, const std::string& text) {
  for (const int peer : peers) {
    const std::lock_guard lock(outbox().mutex);
    Message& message = outbox().messages.emplace_back();
    message.text = text;
    message.request.started(MPI_Isend(message.text.data(), static_cast<int>(text.size()), MPI_CHAR, peer, tag,
                                      world, message.request.get()),
                            "MPI_Isend");
  }
  free_delivered_texts();
}

std::optional<std::string> receive_text(MPI_Comm world, int peer, int tag) {
  int found = 0;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  check_mpi(MPI_Improbe(peer, tag, world, &found, &message, &status), "MPI_Improbe");
  if (found == 0) return std::nullopt;
  int count = 0;
  MPI_Get_count(&status, MPI_CHAR, &count);
  std::string text(static_cast<std::size_t>(count), '\0');
  check_mpi(MPI_Mrecv(text.data(), count, MPI_CHAR, &message, &status), "MPI_Mrecv");
  return text;
}

void free_delivered_texts() {
  const std::lock_guard lock(outbox().mutex);
  outbox().messages.remove_if(
      [](Message& message) { return !message.request.in_flight() || message.request.test(); });
}

}  // namespace syncbn::engines
