// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Record locks on a file that all ranks have open, to find out which ranks' processes live.
///
/// Each rank's process locks one byte of the file. The kernel drops the lock when the process ends, whatever
/// ended it, and a fork does not inherit it. (A socket stays open in a fork: with a worker of a data loader
/// that outlives its parent, peers would take the parent for alive.) The locks work between containers with
/// different process ids. A process has one lock a byte, so two ranks of one process can't use them. A
/// process that closes any descriptor of the file loses its locks.
namespace syncbn::engines {

/// Marks this process as the process of `rank`. @throws std::system_error, also if another process holds the
/// rank
void lock_rank(int file, int rank);
/// True while the process that locked `rank` lives. One system call, 0.2 µs. Not for the caller's own rank.
bool is_rank_locked(int file, int rank) noexcept;

}  // namespace syncbn::engines
