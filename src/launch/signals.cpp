// SPDX-License-Identifier: Apache-2.0
#include "launch/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include "base/throw_errno.h"

namespace syncbn::launch {

SignalReader::SignalReader(int stop_signal) : stop_signal_(stop_signal) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  for (const int signal : kStopSignals) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  for (const int signal : kStopSignals) ::signal(signal, SIG_DFL);  // an ignored signal would never be read
  signals_ = base::Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (signals_.get() < 0) base::throw_errno("signalfd");
}

void SignalReader::read() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == sizeof info)
    if (info.ssi_signo != SIGCHLD && stop_signal_ == 0) stop_signal_ = static_cast<int>(info.ssi_signo);
}

}  // namespace syncbn::launch
