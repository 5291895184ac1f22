#pragma once

namespace syncbn::base {

/// How many forks lie between this process and the one that loaded the library. What was made at another
/// count belongs to another process: its threads are not here, and its connections have their owner.
int forks();
/// This process was forked from one that had several threads. OpenMP's pool may have been among them, also
/// one of the host program's own, and would be waited for in vain.
bool threads_lost_in_fork();

}  // namespace syncbn::base
