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

// What the process in front makes of the supervisor's words and the workers' logs.
class FrontView {
 public:
  FrontView(const JobPlan& plan, const std::vector<int>& shown) : plan_(plan), shown_(shown) {
    show_notes(plan, console_);
  }

  int wake_fd() const { return logs_.wake_fd(); }
  bool has_more() const { return news_.more; }

  void hear(const Word& word) {
    std::visit([this](const auto& each) { take(each); }, word);
  }
  void show_news() {
    news_ = logs_.read();
    console_.out(news_.lines);
  }
  void show_end(const std::string& text) {
    show_all_news();
    console_.set_status("");
    console_.err(said_ + text);
  }

 private:
  void show_all_news() {
    do show_news();
    while (news_.more);
    console_.out(logs_.flush());
  }
  void take(const Progress& progress) {
    const std::string text = "syncbn-run: " + status_text(plan_, progress);
    console_.set_status(text);
    if (console_.has_status()) return;
    const bool waiting = plan_.several_nodes() && progress.here < plan_.options.worker_num;
    const bool joined = plan_.expects_joins() && progress.joined == plan_.options.local_worker_num;
    if (waiting && !std::exchange(told_waiting_, true)) console_.err(text + '\n');
    if (joined && !std::exchange(told_joined_, true))
      console_.err(fmt::format("syncbn-run: all {} workers have joined\n", progress.joined));
  }
  void take(const Started& started) {
    for (const int rank : started.ranks) {
      if (std::find(shown_.begin(), shown_.end(), rank) != shown_.end())
        logs_.add(worker_log(plan_, rank), fmt::format("[{}] ", rank));
    }
    console_.err(fmt::format("syncbn-run: {}\n", started_text(plan_, started.ranks)));
  }
  void take(const Said& said) { said_ += said.text; }
  void take(const LetGo&) {}
  void take(const Restarting& restarting) {
    show_all_news();
    logs_ = LogFollower();
    plan_.restart = restarting.restart;
    told_joined_ = false;
    console_.err(restarting.text);
  }

  JobPlan plan_;  // of the current start
  const std::vector<int>& shown_;
  Console console_;
  LogFollower logs_;
  LogFollower::News news_;
  bool told_waiting_ = false;
  bool told_joined_ = false;
  std::string said_;
};

}  // namespace

int run_in_front(const JobPlan& plan, const std::vector<int>& shown) {
  become_subreaper();
  SupervisorProcess supervisor(plan, SupervisorProcess::Place::front);
  FrontView view(plan, shown);
  for (bool alive = true; alive;) {
    std::array<pollfd, 2> wake = {pollfd{supervisor.ear_fd(), POLLIN, 0}, pollfd{view.wake_fd(), POLLIN, 0}};
    if (poll(wake.data(), wake.size(), view.has_more() ? 0 : -1) < 0) continue;  // a signal was handed on
    if (wake[0].revents != 0) alive = supervisor.listen();
    while (const auto word = supervisor.next_word()) view.hear(*word);
    view.show_news();
  }
  const SupervisorProcess::End end = supervisor.wait();
  view.show_end(end.text);
  return end.code;
}

int run_in_background(const JobPlan& plan) {
  Console console;
  show_notes(plan, console);
  SupervisorProcess supervisor(plan, SupervisorProcess::Place::background);
  while (supervisor.listen()) continue;
  bool lives_on = false;
  std::string said;
  while (const auto word = supervisor.next_word()) {
    lives_on = lives_on || std::holds_alternative<LetGo>(*word);
    if (const auto* text = std::get_if<Said>(&*word)) said += text->text;
  }
  if (!lives_on) {
    const SupervisorProcess::End end = supervisor.wait();
    console.err(said + end.text);
    return end.code;
  }
  const std::string what = plan.several_nodes() ? "the job waits in the background for its other nodes"
                                                : fmt::format("started {} workers in the background",
                                                              plan.options.local_worker_num);
  console.err(
      fmt::format("syncbn-run: {}; logs: {}\n"
                  "syncbn-run: 'kill {}' ends the job; how it ended will be in {}\n",
                  what, plan.log_names(), supervisor.leave(), plan.job_log.string()));
  return kSuccess;
}

}  // namespace syncbn::launch
