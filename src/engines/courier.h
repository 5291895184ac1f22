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

/// A thread that does one job whenever it is sent. The job must not throw.
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
    changed_.notify_one();
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
    changed_.notify_one();
  }

 private:
  void run() {
    base::ignore_interrupts();
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return sent_ || leaving_; });
      if (leaving_) return;
      sent_ = false;
      lock.unlock();
      job_();
      lock.lock();
    }
  }

  const std::function<void()> job_;
  std::mutex mutex_;  // guards the next three members
  std::condition_variable changed_;
  bool sent_ = false;
  bool leaving_ = false;
  std::thread thread_;
};

}  // namespace syncbn::engines
