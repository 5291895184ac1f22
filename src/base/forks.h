// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <new>
#include <utility>

#include "base/engine_api.h"

namespace syncbn::base {

/// Number of fork() calls between the process that loaded the library and this process.
SYNCBN_ENGINE_API int fork_count();

/// True if this process was forked from a process that had several threads. OpenMP's threads, the host
/// program's included, do not exist in such a fork, and a parallel region would wait for them forever.
bool threads_lost_in_fork();

/// Member of an object that must not be used in a fork of the process that created it: the object's threads
/// do not exist in the fork, and its connections belong to the parent.
class ForkGuard {
 public:
  /// True in a fork of the process that created the object.
  bool inherited() const { return created_at_ != fork_count(); }

 private:
  int created_at_ = fork_count();
};

/// Moves a smart pointer or a function to memory that is never freed, so that the object behind it is never
/// destroyed. Used in forks, where a destructor would wait for missing threads or write to the parent's
/// peers.
template <class Owner>
void leak(Owner& owner) noexcept {
  if (owner != nullptr) static_cast<void>(new (std::nothrow) Owner(std::exchange(owner, nullptr)));
}

}  // namespace syncbn::base
