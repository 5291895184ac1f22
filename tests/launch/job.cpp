// SPDX-License-Identifier: Apache-2.0
#include "job.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "../outcome.h"

extern char** environ;

namespace syncbn::launch {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

void redirect(const fs::path& file, int fd) {
  const int opened = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666);
  dup2(opened, fd);
  close(opened);
}

}  // namespace

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = steady_clock::now() + kPatience;
  while (!condition()) {
    if (steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
  return true;
}

std::string read_file(const fs::path& file) {
  std::ifstream input(file, std::ios::binary);
  std::ostringstream text;
  text << input.rdbuf();
  return text.str();
}

Strings lines_of(const std::string& text) {
  std::istringstream input(text);
  Strings lines;
  for (std::string line; std::getline(input, line);) lines.push_back(line);
  return lines;
}

bool contains(const std::string& text, const std::string& fact) { return testing::tells(text, fact); }

int free_port() {
  static int next = 20000 + getpid() * 37 % 12000;
  for (;; next = next < 32000 ? next + 1 : 20000) {
    const int probe = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(next));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool free = bind(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    close(probe);
    if (free) return next++;
  }
}

char process_state(pid_t pid) {
  const std::string stat = read_file(fmt::format("/proc/{}/stat", pid));
  const std::size_t name_end = stat.rfind(") ");
  return name_end == std::string::npos ? '\0' : stat[name_end + 2];
}

Strings environment_with(const Variables& variables) {
  Strings environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!variables.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(fmt::format("{}={}", name, value));
  return environment;
}

std::vector<char*> pointers(Strings& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

Job::Job(const Strings& command, const Variables& variables, const fs::path& folder) : folder_(folder) {
  Strings arguments = command;
  Strings environment = environment_with(variables);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("fork");
  if (pid_ == 0) {
    redirect(folder_ / "out", STDOUT_FILENO);
    redirect(folder_ / "err", STDERR_FILENO);
    execve(argv[0], argv.data(), envp.data());
    _exit(99);
  }
}

Job::~Job() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  wait();
}

void Job::signal(int number) const {
  // kill() takes 0 and -1 for the caller's process group and for all processes.
  if (pid_ <= 0) throw std::logic_error("a signal to a job that has ended");
  kill(pid_, number);
}

int Job::wait() {
  int status = 0;
  if (!wait_until([&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) {
    kill(pid_, SIGKILL);
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return -1000;
  }
  pid_ = 0;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

bool Job::shows(const std::string& text) const {
  return wait_until([&] { return contains(out(), text); });
}

JobTest::JobTest() {
  for (const char* name :
       {"PYTHONUNBUFFERED", "SYNCBN_PORT", "SYNCBN_TOKEN", "SYNCBN_BACKEND", "SYNCBN_TIMEOUT_S", "SYNCBN_LOG",
        "SYNCBN_NUM_THREADS", "OMP_NUM_THREADS", "MS_SIMULATION_LEVEL"})
    unsetenv(name);  // the machine's own would decide what the tests see
  std::string path = (fs::temp_directory_path() / "syncbn-run-test-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) throw std::runtime_error("mkdtemp");
  folder_ = path;
  mark_ = "SYNCBN_TEST_MARK=" + folder_.filename().string();
}

JobTest::~JobTest() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void JobTest::TearDown() {
  jobs_.clear();
  EXPECT_TRUE(all_gone()) << "processes left: " << fmt::format("{}", fmt::join(processes(), ", "));
  for (const pid_t pid : processes()) kill(pid, SIGKILL);
}

Strings JobTest::options(int workers) const {
  return {fmt::format("--worker_num={}", workers), fmt::format("--local_worker_num={}", workers),
          fmt::format("--master_port={}", free_port() - 1), "--log_dir=" + log_dir().string(), "--join=True"};
}

Job& JobTest::launch(const Strings& command, const Variables& environment, const std::string& name) {
  fs::create_directories(folder_ / name);
  return *jobs_.emplace_back(std::make_unique<Job>(command, marked(environment), folder_ / name));
}

Job& JobTest::start(const Strings& options, const Strings& task, const Variables& environment) {
  return launch(command(options, task), environment);
}

Job& JobTest::start_shell(const Strings& options, const std::string& script, const Variables& environment) {
  return start(options, {"bash", "-c", script}, environment);
}

Strings JobTest::command(const Strings& options, const Strings& task) {
  Strings command = {SYNCBN_RUN};
  command.insert(command.end(), options.begin(), options.end());
  command.insert(command.end(), task.begin(), task.end());
  return command;
}

Variables JobTest::marked(const Variables& environment) const {
  Variables variables = environment;
  variables["SYNCBN_TEST_MARK"] = folder_.filename().string();
  variables["DIR"] = folder_.string();
  return variables;
}

fs::path JobTest::write(const std::string& name, const std::string& text) const {
  // Renamed into place: who waits for the file finds it whole.
  std::ofstream(folder_ / (name + ".new")) << text;
  fs::rename(folder_ / (name + ".new"), folder_ / name);
  return folder_ / name;
}

bool JobTest::appears(const std::string& name) const {
  return wait_until([&] { return fs::exists(folder_ / name); });
}

pid_t JobTest::read_pid(const std::string& name) const {
  const auto text = [&] { return read_file(folder_ / name); };
  const bool written = wait_until([&] { return text().ends_with('\n'); });
  const pid_t pid = written ? std::atoi(text().c_str()) : 0;
  if (pid <= 0) throw std::runtime_error("no process id in " + name);  // kill(-1) ends all processes
  return pid;
}

std::vector<pid_t> JobTest::processes() const {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (contains(read_file(entry.path() / "environ"), mark_)) found.push_back(std::atoi(name.c_str()));
  }
  return found;
}

bool JobTest::all_gone() const {
  return wait_until([&] { return processes().empty(); });
}

}  // namespace syncbn::launch
