#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engines/mpi_calls.h"

/// Texts from rank to rank, while their group is not connected yet.
namespace syncbn::engines {

/// Starts to send `text` to each of `peers`. MPI reads the text until the peer has received it, which may be
/// never.
void send_text(MPI_Comm world, const std::vector<int>& peers, int tag, const std::string& text);
/// The next text from `peer`; none if there is no text yet.
std::optional<std::string> receive_text(MPI_Comm world, int peer, int tag);
/// Frees the texts of all groups that have been delivered.
void free_delivered_texts();

}  // namespace syncbn::engines
