#pragma once

#include <csignal>

namespace syncbn::base {

/// Blocks all signals in this thread for its lifetime. Threads made meanwhile stay deaf: the program's
/// signals go to the program's own threads, and a SIGPIPE that such a thread causes stays pending instead of
/// ending the process.
class BlockSignals {
 public:
  BlockSignals();
  ~BlockSignals();
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace syncbn::base
