// SPDX-License-Identifier: Apache-2.0
#include "engines/rank_locks.h"

#include <fcntl.h>

#include <cerrno>
#include <system_error>

namespace syncbn::engines {
namespace {

struct flock lock_of(int rank) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

}  // namespace

void lock_rank(int file, int rank) {
  struct flock lock = lock_of(rank);
  if (fcntl(file, F_SETLK, &lock) != 0) throw std::system_error(errno, std::generic_category(), "F_SETLK");
}

bool is_rank_locked(int file, int rank) noexcept {
  struct flock lock = lock_of(rank);
  return fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace syncbn::engines
