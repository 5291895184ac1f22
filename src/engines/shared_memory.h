// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "base/file_descriptor.h"
#include "base/forks.h"

namespace syncbn::engines {

/// Memory of a fixed size that several processes map.
///
/// The memory has no name, so nothing is left of it after the last process has ended, whatever ended it. Its
/// size is sealed, so no process can take pages away under another one (SIGBUS). A fork of a process that
/// maps it, and a program that the process executes, do not have it.
class SharedMemory {
 public:
  /// New memory, all zero. Its pages exist at once. @throws std::system_error
  explicit SharedMemory(std::size_t bytes);
  /// The memory that another process created. @throws std::system_error; PeerError: it is not sealed, or its
  /// size is not `bytes`
  SharedMemory(base::Fd file, std::size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  /// The file behind the memory. RankLocks relies on it: a process that closes any descriptor of this file
  /// loses its locks, so no copy of the descriptor may be made.
  int file() const { return file_.get(); }

 private:
  void map();

  const base::Fd file_;
  const std::size_t bytes_;
  std::byte* data_ = nullptr;
  const base::ForkGuard forks_;
};

}  // namespace syncbn::engines
