// SPDX-License-Identifier: Apache-2.0

// The fault matrix: every engine, every fault, every phase of a program, on real ranks. One of three ranks
// does wrong; what the others see, and what it sees itself where it lives, is the cell of
// docs/reliability.md. A cell compares outcomes, never times.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "../engines/processes_child.h"
#include "table.h"

namespace syncbn::reliability {
namespace {

using processes::Child;
using processes::Variables;

constexpr int kSize = 3;
constexpr std::size_t kJobsAtOnce = 3;        // most of them wait
constexpr std::chrono::seconds kHanging{15};  // from when on what should be over in 4 s is taken for a hang

struct Fault {
  std::string name;                      // the worker's
  std::string row;                       // the document's
  std::vector<std::string> phases;       // in which it makes sense
  std::vector<std::string> expire = {};  // those in which somebody waits for its deadline
};
const std::vector<Fault> kFaults = {
    {"kill", "killed (SIGKILL)", {"init", "create_group", "forward", "backward"}, {"init", "create_group"}},
    {"stop",
     "stopped (SIGSTOP)",
     {"init", "create_group", "forward", "backward"},
     {"init", "create_group", "forward", "backward"}},
    {"exception",
     "exception before the call",
     {"init", "create_group", "forward", "backward"},
     {"init", "create_group"}},
    {"skip",
     "leaves the call out",
     {"init", "create_group", "forward", "backward"},
     {"init", "create_group"}},
    {"channels", "other C", {"forward", "backward"}},
    {"dtype", "other dtype", {"forward", "backward"}},
    {"order", "other order", {"create_group", "forward", "backward"}},
    {"eps", "other eps", {"forward"}},
    {"empty", "empty batch", {"forward"}},
    {"slow", "0.7 s late", {"init", "create_group", "forward", "backward"}},
};
const std::vector<std::string> kPhases = {"init", "create_group", "forward", "backward"};

struct Engine {
  std::string name;                 // and the document's
  bool processes = true;            // ranks are processes, and there is an init
  std::vector<std::string> launch;  // a launcher that starts all ranks; empty: they are started one by one
  std::vector<std::string> worker;  // a command
  std::vector<std::pair<std::string, std::string>> part;  // fault and phase; empty: all are quick
  std::vector<std::string> not_backward = {};             // faults that can't be made in a backward
};

std::vector<Engine> engines() {
  const std::vector<std::pair<std::string, std::string>> gloo = {
      {"kill", "forward"},     {"stop", "backward"},     {"exception", "forward"},  {"skip", "forward"},
      {"channels", "forward"}, {"dtype", "backward"},    {"order", "create_group"}, {"eps", "forward"},
      {"empty", "forward"},    {"slow", "create_group"}, {"kill", "create_group"},  {"skip", "init"}};
  const std::vector<std::pair<std::string, std::string>> mpi = {{"kill", "forward"}, {"channels", "forward"}};
  std::vector<Engine> all = {
      {"threads", false, {}, {SYNCBN_WORKER}, {}},
      {"gloo", true, {}, {SYNCBN_WORKER}, gloo},
      {"gloo without shared memory", true, {}, {"env", "SYNCBN_SHARED_MEMORY=0", SYNCBN_WORKER}, gloo}};
#ifdef SYNCBN_MPIEXEC
  all.push_back(
      {"Open MPI", true, {SYNCBN_MPIEXEC, "--allow-run-as-root", "--oversubscribe"}, {SYNCBN_WORKER}, mpi});
#endif
#ifdef SYNCBN_MPIEXEC_MPICH
  all.push_back({"MPICH", true, {SYNCBN_MPIEXEC_MPICH}, {SYNCBN_WORKER_MPICH}, mpi});
#endif
#ifdef SYNCBN_TORCH
  // Only in the whole matrix: three times PyTorch for each cell. Its own tests are in tests/python/torch.
  if (extent() != Extent::part) {
    all.push_back({"torch.distributed", true, {}, {SYNCBN_TORCH}, {}, {"channels", "dtype"}});
    all.push_back({"torch.distributed without shared memory",
                   true,
                   {},
                   {"env", "SYNCBN_SHARED_MEMORY=0", SYNCBN_TORCH},
                   {},
                   {"channels", "dtype"}});
  }
#endif
  return all;
}

// What "rank <r>: " is followed by in the output, by rank; the class alone, up to the message.
std::map<int, std::string> reports(const std::string& output) {
  std::map<int, std::string> found;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("rank ")) continue;
    const auto colon = line.find(": ");
    found[std::stoi(line.substr(5))] = line.substr(colon + 2, line.find(':', colon + 2) - colon - 2);
  }
  return found;
}

struct Cell {
  std::string outcome;
  std::string output;
};

class Course {
 public:
  Course(const Engine& engine, const Fault& fault, const std::string& phase)
      : engine_(engine),
        fault_(fault),
        phase_(phase),
        expires_(std::count(fault.expire.begin(), fault.expire.end(), phase) > 0),
        folder_(std::filesystem::temp_directory_path() / unique_name()) {
    std::filesystem::create_directories(folder_);
    const std::vector<std::string> task = {engine.processes ? "launched" : "threads", phase, fault.name,
                                           std::to_string(kCulprit)};
    Variables variables = {{"SYNCBN_TEST_GO", (folder_ / "go").string()},
                           {"SYNCBN_TIMEOUT_S", expires_ ? "4" : "60"},
                           {"ASAN_OPTIONS", "detect_leaks=0"}};  // an MPI's own, and of who is killed
    if (expires_) variables["SYNCBN_TEST_EXPIRES"] = "1";
    if (!engine.processes || !engine.launch.empty()) {
      std::vector<std::string> command = engine.launch;
      if (!command.empty())
        command.insert(command.end(),
                       {"-n", std::to_string(kSize), "sh", "-c", "exec \"$0\" \"$@\" </dev/null"});
      command.insert(command.end(), engine.worker.begin(), engine.worker.end());
      command.insert(command.end(), task.begin(), task.end());
      children_.push_back(std::make_unique<Child>(command, variables));
      return;
    }
    const std::vector<int> ports = processes::free_ports(2);
    for (int rank = 0; rank < kSize; ++rank) {
      variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(rank);
      variables["WORLD_SIZE"] = std::to_string(kSize);
      variables["MASTER_ADDR"] = "127.0.0.1";
      variables["MASTER_PORT"] = std::to_string(ports[0]);
      variables["SYNCBN_PORT"] = std::to_string(ports[1]);
      std::vector<std::string> command = engine.worker;
      command.insert(command.end(), task.begin(), task.end());
      children_.push_back(std::make_unique<Child>(command, variables));
    }
  }
  ~Course() { std::filesystem::remove_all(folder_); }

  Cell watch() {
    // Until all have reported who can: the others ended, or were stopped.
    const std::size_t speakers =
        fault_.name == "kill" || fault_.name == "stop" || fault_.name == "exception" ? kSize - 1 : kSize;
    // MPI_Init knows no deadline: where a rank never comes to it, the others wait for ever.
    const bool hangs = !engine_.launch.empty() && phase_ == "init" && expires_ && fault_.name != "kill";
    const auto deadline = std::chrono::steady_clock::now() + (hangs ? kHanging : processes::kPatience);
    const auto over = [&] {
      return reports(output()).size() >= speakers ||
             std::all_of(children_.begin(), children_.end(),
                         [](const auto& child) { return child->has_ended(); });
    };
    while (!over() && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (hangs && !over()) return {"waits for ever", output()};  // Child ends the launcher, and that the ranks
    std::ofstream(folder_ / "go").close();
    if (fault_.name == "stop" && children_.size() > 1) children_[kCulprit]->signal(SIGKILL);
    std::string end = children_.size() == 1 ? children_[0]->wait() : "";
    for (const auto& child : children_) child->wait();
    return {outcome(end), output()};
  }

 private:
  static constexpr std::size_t kCulprit = 2;  // serves nothing: the store is with rank 0

  static std::string unique_name() {
    static std::atomic<int> number{0};
    return fmt::format("syncbn_reliability_{}_{}", getpid(), number++);
  }

  std::string output() const {
    std::string text;
    for (const auto& child : children_) text += child->output();
    return text;
  }

  std::string outcome(const std::string& end) const {
    const auto said = reports(output());
    std::set<std::string> others;
    std::string own;
    for (const auto& [rank, text] : said) {
      if (rank == static_cast<int>(kCulprit))
        own = text;
      else
        others.insert(text);
    }
    if (others.empty()) return fmt::format("the job ends ({})", end);
    std::string text = fmt::format("{}", fmt::join(others, " or "));
    if (!own.empty() && (others.size() > 1 || own != *others.begin()))
      text += fmt::format("; itself {}", own);
    return text;
  }

  const Engine& engine_;
  const Fault& fault_;
  const std::string phase_;
  const bool expires_;
  const std::filesystem::path folder_;
  std::vector<std::unique_ptr<Child>> children_;
};

std::ostream& operator<<(std::ostream& out, const Engine& engine) { return out << engine.name; }

class Matrix : public ::testing::TestWithParam<Engine> {};
INSTANTIATE_TEST_SUITE_P(On, Matrix, ::testing::ValuesIn(engines()), [](const auto& engine) {
  std::string name = engine.param.name;
  std::erase_if(name, [](char c) { return c == ' ' || c == '.'; });
  return name;
});

// control: a counter that moves before the group's sum shows as STATE CHANGED in the cells of training.
TEST_P(Matrix, OutcomesAreAsDocumented) {
#ifdef __SANITIZE_THREAD__
  if (GetParam().processes && !GetParam().launch.empty())
    GTEST_SKIP() << "MPI is built without the thread sanitizer";
#endif
  const Engine& engine = GetParam();
  Table table{"fault", kPhases, {}, {}};
  struct Job {
    const Fault* fault;
    std::string phase;
  };
  std::vector<Job> jobs;
  for (const Fault& fault : kFaults) {
    table.rows.push_back(fault.row);
    for (const std::string& phase : kPhases) {
      table.cells[{fault.row, phase}] = "–";
      const bool makes_sense =
          std::count(fault.phases.begin(), fault.phases.end(), phase) > 0 &&
          (engine.processes || (phase != "init" && fault.name != "stop")) &&
          (phase != "backward" ||
           std::count(engine.not_backward.begin(), engine.not_backward.end(), fault.name) == 0);
      const bool wanted =
          extent() != Extent::part || engine.part.empty() ||
          std::count(engine.part.begin(), engine.part.end(), std::pair(fault.name, phase)) > 0;
      if (makes_sense && wanted) jobs.push_back({&fault, phase});
    }
  }
  const Table documented = extent() == Extent::write ? Table{} : read_table(engine.name);
  std::mutex mutex;  // guards all below and the table
  std::size_t next = 0;
  const auto work = [&] {
    for (;;) {
      std::unique_lock lock(mutex);
      if (next == jobs.size()) return;
      const Job job = jobs[next++];
      lock.unlock();
      const auto begin = std::chrono::steady_clock::now();
      const Cell cell = Course(engine, *job.fault, job.phase).watch();
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
      lock.lock();
      fmt::print("{:8}  {:26} {:13} {:5.1f} s  {}\n", engine.name, job.fault->row, job.phase, time.count(),
                 cell.outcome);
      std::fflush(stdout);
      table.cells[{job.fault->row, job.phase}] = cell.outcome;
      EXPECT_EQ(cell.output.find("WRONG"), std::string::npos) << cell.output;
      EXPECT_EQ(cell.output.find("STATE CHANGED"), std::string::npos) << cell.output;
      EXPECT_EQ(cell.output.find("NOT BROKEN"), std::string::npos) << cell.output;
      if (extent() == Extent::write) continue;
      const auto found = documented.cells.find({job.fault->row, job.phase});
      EXPECT_EQ(cell.outcome, found == documented.cells.end() ? "" : found->second)
          << engine.name << ", " << job.fault->row << ", " << job.phase << "\n"
          << cell.output;
    }
  };
  std::vector<std::future<void>> workers;
  for (std::size_t i = 0; i < kJobsAtOnce; ++i) workers.push_back(std::async(std::launch::async, work));
  for (auto& worker : workers) worker.get();
  if (extent() == Extent::write) write_table(engine.name, table);
}

}  // namespace
}  // namespace syncbn::reliability
