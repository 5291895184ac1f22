// Whose variables count
//
// Launchers are started inside each other (syncbn-run in a shell that torchrun opened, mpirun in a Slurm
// allocation), and their variables are inherited, so several families may be present. The innermost launcher
// has started this process; it is taken to be the first of this list whose variables are there:
//
//   syncbn-run   SYNCBN_STORE                 sets torchrun's variables, too, for other libraries
//   msrun        MS_ROLE, MS_SCHED_HOST or MS_SCHED_PORT
//   a dry run    MS_SIMULATION_LEVEL >= 0 with RANK_ID or RANK_SIZE: syncbn-run and msrun with --sim_level
//   set
//                no variable of the families above, msrun but MS_WORKER_NUM
//   msrun        MS_WORKER_NUM
//   torchrun     TORCHELASTIC_RUN_ID and RANK  torchrun's own mark: nobody sets it by hand, so torchrun was
//                started by mpirun or srun (once a node), and not the other way round
//   mpirun       OMPI_COMM_WORLD_RANK or _SIZE  before RANK and WORLD_SIZE, which scripts under mpirun set;
//                before Slurm, whose allocation mpirun is started in: a process of mpirun on another node has
//                the variables of the step that carries mpirun's daemons
//   mpiexec      MPI_LOCALRANKID or MPI_LOCALNRANKS, which MPICH's mpiexec and its relatives add to PMI_RANK
//                and PMI_SIZE; before RANK and before Slurm for the same reasons
//   torchrun     RANK                         also set by hand; before Slurm, in whose steps scripts set it
//   srun         SLURM_STEP_ID, SLURM_STEP_NODELIST or SLURM_STEP_NUM_TASKS: SLURM_PROCID is in the
//                environment of a batch script, too, which is one process
//   mpiexec      PMI_RANK or PMI_SIZE         of another launcher; srun --mpi=pmi2 sets them in its steps
//   torchrun     WORLD_SIZE                   RANK is missing; after Slurm, where batch scripts export it
//   rank table   RANK_TABLE_FILE              processes started by hand, the old way of MindSpore
//
// Inside its family a variable that is missing or contradicts another one is an error; other families are not
// looked at. RANK_SIZE > 1 without any launcher's variables is an error as well: such a process has peers and
// no way to find them.
#include "environment/launch_env.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

#include "environment/rank_table.h"
#include "environment/slurm_lists.h"
#include "syncbn/error.h"

namespace syncbn::environment {
namespace {

constexpr int kMaxPort = 65535;
constexpr int kTablePort = 8119;  // for a rank table, which names none: as under msrun

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
  std::optional<std::uint64_t> id(const char* name) {
    const auto value = text(name);
    if (value && !parse<std::uint64_t>(*value))
      fail(fmt::format("{}: '{}', expected a number", name, *value));
    return value ? parse<std::uint64_t>(*value) : std::nullopt;
  }
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

bool needs_rendezvous(const LaunchEnv& env) { return env.backend == "gloo" && env.world.size > 1; }

// The launcher's own port belongs to the framework that it was made for.
int port_above(Family& family, const char* name, int port) {
  if (port == kMaxPort)
    family.fail(fmt::format("{} leaves no port above it for the rendezvous, set SYNCBN_PORT", name));
  return port + 1;
}

void set_rendezvous(Family& family, LaunchEnv& env, const char* host_name, const char* port_name) {
  const auto host = family.text(host_name);
  const auto own_port = family.port("SYNCBN_PORT");
  const auto launcher_port = family.port(port_name);
  if (!needs_rendezvous(env)) return;
  env.world.host = family.need(host, host_name);
  if (!own_port) family.need(launcher_port, port_name);
  family.check_complete();
  env.world.port = own_port ? *own_port : port_above(family, port_name, *launcher_port);
  env.world.serve = env.world.rank ? std::optional(env.world.rank == 0) : std::nullopt;
}

void syncbn_run(Family& family, LaunchEnv& env) {
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
}

// The file re-maps the ranks: entry number DEVICE_ID of this machine's list says who this process is. Rank 0
// may then be anywhere, so that somebody on the scheduler's machine serves the rendezvous.
void remap(Family& family, LaunchEnv& env, const std::string& file) {
  const RankTable table = read_rank_table(file);
  const auto device = family.rank("DEVICE_ID");
  family.need(device, "DEVICE_ID");
  family.check_complete();
  if (table.size() != env.world.size) {
    family.fail(fmt::format("RANK_TABLE_FILE: {} devices, MS_WORKER_NUM: {}, expected equal numbers",
                            table.size(), env.world.size));
  }
  const auto& devices = own_server(table, local_addresses()).devices;
  if (static_cast<std::size_t>(*device) >= devices.size()) {
    family.fail(fmt::format("DEVICE_ID: {}, RANK_TABLE_FILE has {} devices for this machine", *device,
                            devices.size()));
  }
  env.world.rank = devices[static_cast<std::size_t>(*device)].rank;
  env.world.serve = std::nullopt;
}

void msrun(Family& family, LaunchEnv& env) {
  const std::string role = family.text("MS_ROLE").value_or("MS_WORKER");
  if (role != "MS_WORKER" && role != "MS_SCHED") {
    family.fail(fmt::format("MS_ROLE: '{}', expected MS_WORKER or MS_SCHED", role));
  }
  const auto size = family.size("MS_WORKER_NUM");
  auto rank = family.rank("RANK_ID");  // not set where msrun lets the ranks be handed out
  // But the workers beside the scheduler inherit its 0 then; a worker that msrun gave a rank has MS_NODE_ID,
  // too. Where MindSpore's init() came first it set RANK_ID to the rank it found: if that is 0, the others
  // have theirs, and the first to be handed out is 0.
  const bool ranked = family.text("MS_NODE_ID").has_value();
  if (rank == 0 && !ranked) rank = std::nullopt;
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
  if (!ranked) env.world.serve = std::nullopt;  // MindSpore may have found rank 0 anywhere
  const auto table = family.text("RANK_TABLE_FILE");
  if (table && !env.scheduler) remap(family, env, *table);
}

void dry_run(Family& family, LaunchEnv& env) {
  const auto level =
      family.number("MS_SIMULATION_LEVEL", INT32_MIN, 3, "0 to 3, or a negative number for none");
  const auto rank = family.rank("RANK_ID");
  const auto size = family.size("RANK_SIZE");
  family.need(level, "MS_SIMULATION_LEVEL");
  family.need(rank, "RANK_ID");
  family.need(size, "RANK_SIZE");
  family.check_complete();
  set_rank(family, env, rank, *size);
  env.backend = "simulation";
}

void torchrun(Family& family, LaunchEnv& env) {
  const auto rank = family.rank("RANK");
  const auto size = family.size("WORLD_SIZE");
  family.need(rank, "RANK");
  family.need(size, "WORLD_SIZE");
  family.check_complete();
  set_rank(family, env, rank, *size);
  set_local(family, env, family.rank("LOCAL_RANK"), family.size("LOCAL_WORLD_SIZE"));
  set_rendezvous(family, env, "MASTER_ADDR", "MASTER_PORT");
}

// An MPI's launcher names no place to meet, so that engine gloo wants it by hand.
void mpi_launcher(Family& family, LaunchEnv& env, const char* rank_name, const char* size_name,
                  const char* local_rank_name, const char* local_size_name) {
  const auto rank = family.rank(rank_name);
  const auto size = family.size(size_name);
  family.need(rank, rank_name);
  family.need(size, size_name);
  family.check_complete();
  set_rank(family, env, rank, *size);
  const auto local_rank = family.rank(local_rank_name);
  const auto local_size = family.size(local_size_name);
  set_local(family, env, local_rank, local_size);
  if (needs_rendezvous(env)) set_rendezvous(family, env, "MASTER_ADDR", "MASTER_PORT");
}
void mpirun(Family& family, LaunchEnv& env) {
  mpi_launcher(family, env, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
               "OMPI_COMM_WORLD_LOCAL_SIZE");
}
void mpiexec(Family& family, LaunchEnv& env) {
  mpi_launcher(family, env, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
}

// Steps of one cluster that run at the same time get different ports, jobs of neighbouring numbers as well;
// none is in the range that Linux takes source ports from.
int step_port(std::uint64_t job, std::uint64_t step) {
  return static_cast<int>(10000 + (job * 64 + step) % 20000);
}

void srun(Family& family, LaunchEnv& env) {
  const auto rank = family.rank("SLURM_PROCID");
  const auto step_size = family.size("SLURM_STEP_NUM_TASKS");
  const auto size = step_size ? step_size : family.size("SLURM_NTASKS");
  const std::string nodes = family.need(family.text("SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST");
  family.need(rank, "SLURM_PROCID");
  family.need(size, "SLURM_STEP_NUM_TASKS");
  family.check_complete();
  set_rank(family, env, rank, *size);
  const auto node = family.rank("SLURM_NODEID");
  const std::string tasks = family.text("SLURM_STEP_TASKS_PER_NODE").value_or("");
  set_local(family, env, family.rank("SLURM_LOCALID"), tasks_of_node(tasks, node.value_or(0)));
  const bool has_pmi = family.text("PMI_RANK") || family.text("PMIX_RANK");
  if (env.backend.empty()) env.backend = has_pmi ? "mpi" : "gloo";
  if (!needs_rendezvous(env)) return;
  const auto host = family.text("MASTER_ADDR");
  const auto master_port = family.port("MASTER_PORT");
  const auto own_port = family.port("SYNCBN_PORT");
  const auto first = first_node(nodes);
  if (!first)
    family.fail(fmt::format("SLURM_STEP_NODELIST: '{}', expected a list such as n[01-03,7],m2", nodes));
  const bool by_hand = host && master_port;
  env.world.host = by_hand ? *host : *first;
  env.world.serve = env.world.rank == 0;
  if (own_port) {
    env.world.port = *own_port;
  } else if (by_hand) {
    env.world.port = port_above(family, "MASTER_PORT", *master_port);
  } else {
    const auto job = family.id("SLURM_JOB_ID");
    const auto step = family.id("SLURM_STEP_ID");
    env.world.port = step_port(family.need(job, "SLURM_JOB_ID"), family.need(step, "SLURM_STEP_ID"));
    family.check_complete();
  }
}

void rank_table(Family& family, LaunchEnv& env) {
  const std::string file = family.need(family.text("RANK_TABLE_FILE"), "RANK_TABLE_FILE");
  const auto rank = family.rank("RANK_ID");
  const auto size = family.size("RANK_SIZE");
  const auto device_id = family.text("DEVICE_ID");
  const auto port = family.port("SYNCBN_PORT");
  family.need(rank, "RANK_ID");
  family.check_complete();
  const RankTable table = read_rank_table(file);
  if (size && *size != table.size()) {
    family.fail(fmt::format("RANK_SIZE: {}, RANK_TABLE_FILE has {} devices, expected equal numbers", *size,
                            table.size()));
  }
  set_rank(family, env, rank, table.size());
  for (const RankTable::Server& server : table.servers) {
    int before = 0;
    for (const RankTable::Device& device : server.devices) {
      before += device.rank < *rank ? 1 : 0;
      if (device.rank == 0) env.world.host = server.pod_ip.empty() ? server.server_id : server.pod_ip;
      if (device.rank == *rank && device_id && *device_id != device.device_id) {
        family.fail(fmt::format("DEVICE_ID: '{}', RANK_TABLE_FILE gives rank {} the device_id '{}'",
                                *device_id, *rank, device.device_id));
      }
    }
    const bool own = std::any_of(server.devices.begin(), server.devices.end(),
                                 [&](const RankTable::Device& device) { return device.rank == *rank; });
    if (own) set_local(family, env, before, static_cast<int>(server.devices.size()));
  }
  env.world.port = port.value_or(kTablePort);
  env.world.serve = *rank == 0;
}

void no_launcher(Family& family, LaunchEnv&) {
  family.text("RANK_ID");
  if (family.size("RANK_SIZE").value_or(1) > 1) {
    family.fail(
        "RANK_SIZE names peers that can't be found: SYNCBN_STORE (syncbn-run), MS_WORKER_NUM, "
        "MS_SCHED_HOST and MS_SCHED_PORT (msrun), or RANK_TABLE_FILE missing");
  }
}

struct Launcher {
  const char* name;     // LaunchEnv::launcher
  const char* title;    // in messages
  const char* backend;  // "": read() decides
  void (*read)(Family& family, LaunchEnv& env);
};

Launcher innermost(const Getenv& getenv) {
  const Launcher by_msrun{"msrun", "msrun", "gloo", msrun};
  const Launcher by_torchrun{"torchrun", "torchrun", "gloo", torchrun};
  const Launcher by_mpiexec{"mpiexec", "mpiexec (MPICH)", "mpi", mpiexec};
  const bool rank = any(getenv, {"RANK"});
  if (any(getenv, {"SYNCBN_STORE"})) return {"syncbn-run", "syncbn-run", "gloo", syncbn_run};
  if (any(getenv, {"MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT"})) return by_msrun;
  if (!getenv("MS_SIMULATION_LEVEL").value_or("-").starts_with('-') && any(getenv, {"RANK_ID", "RANK_SIZE"}))
    return {"the dry run", "a dry run", "simulation", dry_run};
  if (any(getenv, {"MS_WORKER_NUM"})) return by_msrun;
  if (rank && any(getenv, {"TORCHELASTIC_RUN_ID"})) return by_torchrun;
  if (any(getenv, {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}))
    return {"mpirun", "mpirun (Open MPI)", "mpi", mpirun};
  if (any(getenv, {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"})) return by_mpiexec;
  if (rank) return by_torchrun;
  if (any(getenv, {"SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS"}))
    return {"srun", "a Slurm step", "", srun};
  if (any(getenv, {"PMI_RANK", "PMI_SIZE"})) return by_mpiexec;
  if (any(getenv, {"WORLD_SIZE"})) return by_torchrun;
  if (any(getenv, {"RANK_TABLE_FILE"})) return {"the rank table", "a rank table", "gloo", rank_table};
  return {"", "no known launcher", "", no_launcher};
}

// "": the launcher's own.
std::string wished_backend(const Getenv& getenv, Backend asked) {
  if (asked == Backend::gloo) return "gloo";
  if (asked == Backend::mpi) return "mpi";
  if (asked == Backend::simulation) return "simulation";
  const std::string wish = getenv("SYNCBN_BACKEND").value_or("auto");
  if (wish == "auto") return "";
  if (wish == "gloo" || wish == "mpi" || wish == "simulation") return wish;
  throw GroupError(fmt::format("SYNCBN_BACKEND: '{}', expected auto, gloo, mpi or simulation", wish));
}

// "-1" and below: no limit.
std::chrono::milliseconds seconds_of(const char* name, const std::string& value, bool negative_is_unlimited) {
  const auto number = parse<double>(value);
  if (number && *number < 0 && negative_is_unlimited) return kLongestTimeout;
  if (!number || !(*number >= 0.001 && *number <= static_cast<double>(kLongestTimeout.count()))) {
    throw GroupError(fmt::format("{}: '{}', expected a number of seconds in [0.001, {}]", name, value,
                                 kLongestTimeout.count()));
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(*number * 1000));
}

}  // namespace

std::optional<std::string> process_env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

LaunchEnv read_launch_env(const Getenv& getenv, Backend asked) {
  const std::string wish = wished_backend(getenv, asked);
  const Launcher launcher = innermost(getenv);
  Family family(launcher.title, getenv);
  LaunchEnv env;
  env.launcher = launcher.name;
  env.backend = wish.empty() ? launcher.backend : wish;
  launcher.read(family, env);
  env.world.token = getenv("SYNCBN_TOKEN").value_or("");
  if (const auto value = getenv("MS_TOPO_TIMEOUT"))
    env.rendezvous_timeout = seconds_of("MS_TOPO_TIMEOUT", *value, true);
  if (env.world.size == 1) env.backend = "";
  return env;
}

std::chrono::milliseconds read_timeout(const Getenv& getenv) {
  constexpr std::chrono::seconds kDefault{300};
  const auto value = getenv("SYNCBN_TIMEOUT_S");
  return value ? seconds_of("SYNCBN_TIMEOUT_S", *value, false) : kDefault;
}

}  // namespace syncbn::environment
