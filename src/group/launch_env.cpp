// Whose variables count
//
// Launchers are started inside each other (syncbn-run in a shell that torchrun opened, a test under mpirun),
// and their variables are inherited, so several families may be present. The innermost launcher has started
// this process; it is taken to be the first of this list whose variables are there:
//
//   syncbn-run   SYNCBN_STORE                      sets torchrun's variables, too, for other libraries
//   msrun        MS_ROLE, MS_WORKER_NUM, MS_SCHED_HOST or MS_SCHED_PORT
//   mpirun       OMPI_COMM_WORLD_RANK or _SIZE     before RANK and WORLD_SIZE, which scripts under mpirun set
//   torchrun     RANK or WORLD_SIZE                also set by hand
//
// Inside its family a variable that is missing or contradicts another one is an error; other families are not
// looked at. RANK_SIZE, PMI_SIZE or SLURM_STEP_NUM_TASKS > 1 without any launcher's variables is an error as
// well: such a process has peers and no way to find them.
#include "group/launch_env.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

#include "syncbn/error.h"

namespace syncbn::group {
namespace {

constexpr int kMaxPort = 65535;
constexpr std::int64_t kMaxSeconds = 1'000'000'000;  // 31 years; keeps deadlines far from the clock's end

template <class Number>
std::optional<Number> parse(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// One launcher's variables. Remembers what was looked up, for the message of an error.
class Family {
 public:
  Family(const char* launcher, const Getenv& getenv) : launcher_(launcher), getenv_(getenv) {}

  std::optional<std::string> text(const char* name) {
    auto value = getenv_(name);
    if (value) found_ += fmt::format("{}{}='{}'", found_.empty() ? "" : ", ", name, *value);
    return value;
  }

  std::optional<int> number(const char* name, int low, int high, const char* allowed) {
    const auto value = text(name);
    if (!value) return std::nullopt;
    const auto parsed = parse<int>(*value);
    if (!parsed || *parsed < low || *parsed > high)
      fail(fmt::format("{}: '{}', expected {}", name, *value, allowed));
    return parsed;
  }
  std::optional<int> size(const char* name) { return number(name, 1, INT32_MAX, "a number of ranks >= 1"); }
  std::optional<int> rank(const char* name) { return number(name, 0, INT32_MAX, "a rank >= 0"); }
  std::optional<int> port(const char* name) { return number(name, 1, kMaxPort, "a port in [1, 65535]"); }

  template <class Value>
  Value need(const std::optional<Value>& value, const char* name) {
    if (!value) missing_ += fmt::format("{}{}", missing_.empty() ? "" : ", ", name);
    return value.value_or(Value{});
  }
  void check_complete() const {
    if (!missing_.empty()) fail(fmt::format("{} missing", missing_));
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw GroupError(
        fmt::format("environment of {}: {} (found {})", launcher_, why, found_.empty() ? "nothing" : found_));
  }

 private:
  const char* launcher_;
  const Getenv& getenv_;
  std::string found_;
  std::string missing_;
};

bool any(const Getenv& getenv, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (getenv(name)) return true;
  }
  return false;
}

void set_rank(Family& family, LaunchEnv& env, std::optional<int> rank, int size) {
  if (rank && *rank >= size)
    family.fail(fmt::format("rank {} of {} ranks, expected a rank in [0, {})", *rank, size, size));
  env.world.rank = rank;
  env.world.size = size;
}

void set_local(Family& family, LaunchEnv& env, std::optional<int> rank, std::optional<int> size) {
  env.local_rank = rank.value_or(0);
  env.local_size = size.value_or(1);
  if (rank && size && *rank >= *size) {
    family.fail(fmt::format("local rank {} of {} local ranks, expected less", *rank, *size));
  }
  if (env.local_size > env.world.size) {
    family.fail(
        fmt::format("{} local ranks of {} ranks, expected at most as many", env.local_size, env.world.size));
  }
}

// msrun says the place on the node as DEVICE_ID only.
std::optional<int> local_rank_or_device(Family& family) {
  const auto rank = family.rank("LOCAL_RANK");
  return rank ? rank : family.rank("DEVICE_ID");
}

// The launcher's own port belongs to the framework that it was made for.
void set_rendezvous(Family& family, LaunchEnv& env, const char* host_name, const char* port_name) {
  const auto host = family.text(host_name);
  const auto own_port = family.port("SYNCBN_PORT");
  const auto launcher_port = family.port(port_name);
  if (env.world.size == 1) return;
  env.world.host = family.need(host, host_name);
  if (!own_port) family.need(launcher_port, port_name);
  family.check_complete();
  if (!own_port && *launcher_port == kMaxPort) {
    family.fail(fmt::format("{} leaves no port above it for the rendezvous, set SYNCBN_PORT", port_name));
  }
  env.world.port = own_port ? *own_port : *launcher_port + 1;
  env.world.serve = env.world.rank == 0;
}

LaunchEnv syncbn_run(const Getenv& getenv) {
  Family family("syncbn-run", getenv);
  LaunchEnv env;
  env.launcher = "syncbn-run";
  const std::string store = family.need(family.text("SYNCBN_STORE"), "SYNCBN_STORE");
  const auto rank = family.rank("RANK_ID");
  const auto size = family.size("RANK_SIZE");
  family.need(rank, "RANK_ID");
  family.need(size, "RANK_SIZE");
  family.check_complete();
  const std::size_t colon = store.rfind(':');
  const auto port =
      colon == std::string::npos ? std::nullopt : parse<int>(std::string_view(store).substr(colon + 1));
  if (!port || *port < 1 || *port > kMaxPort || colon == 0) {
    family.fail(fmt::format("SYNCBN_STORE: '{}', expected host:port with a port in [1, 65535]", store));
  }
  set_rank(family, env, rank, *size);
  set_local(family, env, local_rank_or_device(family), family.size("LOCAL_WORLD_SIZE"));
  env.world.host = store.substr(0, colon);
  env.world.port = *port;  // the launcher serves
  return env;
}

LaunchEnv msrun(const Getenv& getenv) {
  Family family("msrun", getenv);
  LaunchEnv env;
  env.launcher = "msrun";
  const std::string role = family.text("MS_ROLE").value_or("MS_WORKER");
  if (role != "MS_WORKER" && role != "MS_SCHED") {
    family.fail(fmt::format("MS_ROLE: '{}', expected MS_WORKER or MS_SCHED", role));
  }
  const auto size = family.size("MS_WORKER_NUM");
  auto rank = family.rank("RANK_ID");  // not set where msrun lets the ranks be handed out
  // But the workers beside the scheduler inherit its 0 then; a worker that msrun gave a rank has MS_NODE_ID,
  // too. Where MindSpore's init() came first it set RANK_ID to the rank it found: if that is 0, the others
  // have theirs, and the first to be handed out is 0.
  if (rank == 0 && !family.text("MS_NODE_ID")) rank = std::nullopt;
  const auto rank_size = family.size("RANK_SIZE");
  family.need(size, "MS_WORKER_NUM");
  family.check_complete();
  if (rank_size && *rank_size != *size) {
    family.fail(fmt::format("MS_WORKER_NUM: {}, RANK_SIZE: {}, expected equal numbers", *size, *rank_size));
  }
  env.scheduler = role == "MS_SCHED";
  set_rank(family, env, rank, *size);
  set_local(family, env, local_rank_or_device(family), family.size("LOCAL_RANK_SIZE"));
  set_rendezvous(family, env, "MS_SCHED_HOST", "MS_SCHED_PORT");
  return env;
}

LaunchEnv mpirun(const Getenv& getenv) {
  Family family("mpirun (Open MPI)", getenv);
  LaunchEnv env;
  env.launcher = "mpirun";
  const auto rank = family.rank("OMPI_COMM_WORLD_RANK");
  const auto size = family.size("OMPI_COMM_WORLD_SIZE");
  family.need(rank, "OMPI_COMM_WORLD_RANK");
  family.need(size, "OMPI_COMM_WORLD_SIZE");
  family.check_complete();
  set_rank(family, env, rank, *size);
  set_local(family, env, family.rank("OMPI_COMM_WORLD_LOCAL_RANK"),
            family.size("OMPI_COMM_WORLD_LOCAL_SIZE"));
  return env;
}

LaunchEnv torchrun(const Getenv& getenv) {
  Family family("torchrun", getenv);
  LaunchEnv env;
  env.launcher = "torchrun";
  const auto rank = family.rank("RANK");
  const auto size = family.size("WORLD_SIZE");
  family.need(rank, "RANK");
  family.need(size, "WORLD_SIZE");
  family.check_complete();
  set_rank(family, env, rank, *size);
  set_local(family, env, family.rank("LOCAL_RANK"), family.size("LOCAL_WORLD_SIZE"));
  set_rendezvous(family, env, "MASTER_ADDR", "MASTER_PORT");
  return env;
}

LaunchEnv no_launcher(const Getenv& getenv) {
  Family family("no known launcher", getenv);
  LaunchEnv env;
  family.text("RANK_ID");
  if (family.size("RANK_SIZE").value_or(1) > 1) {
    family.fail(
        "RANK_SIZE names peers that can't be found: SYNCBN_STORE (syncbn-run) or MS_WORKER_NUM, "
        "MS_SCHED_HOST and MS_SCHED_PORT (msrun) missing");
  }
  // Every process would take itself for a world of one.
  for (const char* size : {"PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    if (family.size(size).value_or(1) > 1) {
      family.fail(fmt::format(
          "{} names peers, but its launcher (MPICH's mpiexec, srun) is not supported; use syncbn-run, Open "
          "MPI's mpirun or torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT",
          size));
    }
  }
  return env;
}

LaunchEnv innermost(const Getenv& getenv) {
  if (any(getenv, {"SYNCBN_STORE"})) return syncbn_run(getenv);
  if (any(getenv, {"MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"})) return msrun(getenv);
  if (any(getenv, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"})) return mpirun(getenv);
  if (any(getenv, {"RANK", "WORLD_SIZE"})) return torchrun(getenv);
  return no_launcher(getenv);
}

std::string chosen_backend(const Getenv& getenv, Backend asked, const std::string& launcher) {
  if (asked == Backend::gloo) return "gloo";
  if (asked == Backend::mpi) return "mpi";
  const std::string wish = getenv("SYNCBN_BACKEND").value_or("auto");
  if (wish == "gloo" || wish == "mpi") return wish;
  if (wish != "auto") throw GroupError(fmt::format("SYNCBN_BACKEND: '{}', expected auto, gloo or mpi", wish));
  return launcher == "mpirun" ? "mpi" : "gloo";
}

// "-1" and below: no limit.
std::chrono::milliseconds seconds_of(const char* name, const std::string& value, bool negative_is_unlimited) {
  const auto number = parse<double>(value);
  if (number && *number < 0 && negative_is_unlimited) return std::chrono::seconds(kMaxSeconds);
  if (!number || !(*number >= 0.001 && *number <= static_cast<double>(kMaxSeconds))) {
    throw GroupError(
        fmt::format("{}: '{}', expected a number of seconds in [0.001, {}]", name, value, kMaxSeconds));
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(*number * 1000));
}

}  // namespace

std::optional<std::string> process_env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

LaunchEnv read_launch_env(const Getenv& getenv, Backend asked) {
  LaunchEnv env = innermost(getenv);
  const std::string backend = chosen_backend(getenv, asked, env.launcher);
  env.world.token = getenv("SYNCBN_TOKEN").value_or("");
  if (const auto value = getenv("MS_TOPO_TIMEOUT"))
    env.rendezvous_timeout = seconds_of("MS_TOPO_TIMEOUT", *value, true);
  if (env.world.size == 1) return env;
  env.backend = backend;
  if (backend == "gloo" && env.launcher == "mpirun") {  // mpirun names no place to meet
    Family family("mpirun (Open MPI) with engine gloo", getenv);
    set_rendezvous(family, env, "MASTER_ADDR", "MASTER_PORT");
  }
  return env;
}

std::chrono::milliseconds read_timeout(const Getenv& getenv) {
  constexpr std::chrono::seconds kDefault{300};
  const auto value = getenv("SYNCBN_TIMEOUT_S");
  return value ? seconds_of("SYNCBN_TIMEOUT_S", *value, false) : kDefault;
}

}  // namespace syncbn::group
