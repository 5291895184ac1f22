// SPDX-License-Identifier: Apache-2.0
#include "launch/run_job.h"

#include <fmt/core.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "launch/console.h"
#include "launch/exit_codes.h"
#include "launch/log_tail.h"
#include "launch/process.h"
#include "launch/status_text.h"
#include "launch/supervisor_process.h"

namespace syncbn::launch {
namespace {

void show_notes(const JobPlan& plan, Console& console) {
  for (const std::string& note : plan.notes) console.err(fmt::format("syncbn-run: {}\n", note));
}

// Shows the supervisor's messages and the workers' logs on the console.
class JobDisplay {
 public:
  JobDisplay(const JobPlan& plan, const std::vector<int>& shown) : plan_(plan), shown_(shown) {
    show_notes(plan, console_);
  }

  int wake_fd() const { return logs_.wake_fd(); }  ///< For poll(): readable when a log has grown.
  bool has_more() const { return new_lines_.more; }

  void show(const StatusMessage& message) {
    if (std::holds_alternative<Notice>(message.status)) return console_.err(message.text);
    report_ += message.text;  // shown when the job restarts or ends
    if (const auto* progress = std::get_if<Progress>(&message.status)) show_progress(*progress);
    if (const auto* started = std::get_if<Started>(&message.status)) show_started(*started);
    if (const auto* restarting = std::get_if<Restarting>(&message.status)) show_restart(*restarting);
  }
  void show_new_lines() {
    new_lines_ = logs_.read();
    console_.out(new_lines_.lines);
  }
  void show_end(const std::string& text) {
    show_all_lines();
    console_.set_status("");
    console_.err(report_ + text);
  }

 private:
  void show_all_lines() {
    do show_new_lines();
    while (new_lines_.more);
    console_.out(logs_.flush());
  }
  void show_progress(const Progress& progress) {
    const std::string text = "syncbn-run: " + status_text(plan_, progress);
    console_.set_status(text);
    if (console_.has_status()) return;
    const bool waiting = plan_.several_nodes() && progress.workers_arrived < plan_.options.worker_num;
    const bool joined = plan_.expects_joins() && progress.joined == plan_.options.local_worker_num;
    if (waiting && !std::exchange(told_waiting_, true)) console_.err(text + '\n');
    if (joined && !std::exchange(told_joined_, true))
      console_.err(fmt::format("syncbn-run: all {} workers have joined\n", progress.joined));
  }
  void show_started(const Started& started) {
    for (const int rank : local_ranks(plan_, started.placement)) {
      if (std::find(shown_.begin(), shown_.end(), rank) != shown_.end())
        logs_.add(worker_log(plan_, rank), fmt::format("[{}] ", rank));
    }
    console_.err(fmt::format("syncbn-run: {}\n", started_text(plan_, started.placement)));
  }
  void show_restart(const Restarting& restarting) {
    show_all_lines();
    logs_ = LogFollower();
    plan_.restart = restarting.restart;
    told_joined_ = false;
    console_.err(std::exchange(report_, ""));
  }

  JobPlan plan_;  // of the current start
  const std::vector<int>& shown_;
  Console console_;
  LogFollower logs_;
  LogFollower::NewLines new_lines_;
  bool told_waiting_ = false;
  bool told_joined_ = false;
  std::string report_;
};

}  // namespace

int run_in_foreground(const JobPlan& plan, const std::vector<int>& shown) {
  become_subreaper();
  SupervisorProcess supervisor(plan, SupervisorProcess::Mode::foreground);
  JobDisplay display(plan, shown);
  for (bool connected = true; connected;) {
    std::array<pollfd, 2> wake = {pollfd{supervisor.fd(), POLLIN, 0}, pollfd{display.wake_fd(), POLLIN, 0}};
    if (poll(wake.data(), wake.size(), display.has_more() ? 0 : -1) < 0) continue;  // a signal was forwarded
    if (wake[0].revents != 0) {
      const auto message = supervisor.receive();
      connected = message.has_value();
      if (message) display.show(*message);
    }
    display.show_new_lines();
  }
  const SupervisorProcess::Exit exit = supervisor.wait();
  display.show_end(exit.report);
  return exit.code;
}

int run_in_background(const JobPlan& plan) {
  Console console;
  show_notes(plan, console);
  SupervisorProcess supervisor(plan, SupervisorProcess::Mode::background);
  bool detached = false;
  std::string report;
  while (const auto message = supervisor.receive()) {
    detached = detached || std::holds_alternative<Detached>(message->status);
    report += message->text;
  }
  if (!detached) {
    const SupervisorProcess::Exit exit = supervisor.wait();
    console.err(report + exit.report);
    return exit.code;
  }
  const std::string what = plan.several_nodes() ? "the job waits in the background for its other nodes"
                                                : fmt::format("started {} workers in the background",
                                                              plan.options.local_worker_num);
  console.err(
      fmt::format("syncbn-run: {}; logs: {}\n"
                  "syncbn-run: 'kill {}' ends the job; its end will be reported in {}\n",
                  what, plan.log_names(), supervisor.detach(), plan.job_log.string()));
  return kSuccess;
}

}  // namespace syncbn::launch
