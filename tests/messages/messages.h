// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

/// Error messages word by word: each is raised for real and compared with tests/golden/messages.txt.
namespace syncbn::testing {

struct Message {
  std::string name;                    // in the golden file
  std::function<std::string()> raise;  // its outcome, "<class>: <message>"
};

std::vector<Message> layer_messages();
std::vector<Message> group_messages();
std::vector<Message> rendezvous_messages();
std::vector<Message> launcher_messages();
std::vector<Message> report_messages();

}  // namespace syncbn::testing
