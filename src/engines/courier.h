// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "base/block_signals.h"
#include "base/interrupt.h"

namespace syncbn::engines {

/// A thread that does one job whenever it is sent. The job must not throw. What its user learns of the job is
/// in memory of this process alone, so no other process can make the user take an unfinished job for
/// finished.
class Courier {
 public:
  explicit Courier(std::function<void()> job) : job_(std::move(job)) {
    const base::BlockSignals blocked;  // for the thread
    thread_ = std::thread([this] { run(); });
  }
  /// Waits until the job in progress is over.
  ~Courier() {
    {
      const std::lock_guard lock(mutex_);
      leaving_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  /// Begins the job. The one before must be over.
  void send() {
    {
      const std::lock_guard lock(mutex_);
      sent_ = true;
    }
    changed_.notify_all();
  }
  /// Waits for the end of the job, or until `until`. True if the job is over.
  bool await(Deadline until) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, until, [this] { return !sent_; });
  }

 private:
  void run() {
    base::ignore_interrupts();
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return sent_ || leaving_; });
      if (leaving_) return;
      lock.unlock();
      job_();
      lock.lock();
      sent_ = false;
      changed_.notify_all();
    }
  }

  const std::function<void()> job_;
  std::mutex mutex_;  // guards the next three members
  std::condition_variable changed_;
  bool sent_ = false;  // until the job is over
  bool leaving_ = false;
  std::thread thread_;
};

}  // namespace syncbn::engines
