// Several ranks on this machine against one rank with all cores, interleaved. Under a launcher (mpirun,
// syncbn-run) ranks are its processes, else threads, --ranks of them. Rank 0 measures; the others sleep until
// it tells them to call, so that they take nothing from the contender that runs alone.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "contenders.h"
#include "syncbn/group.h"
#include "syncbn/joint_call.h"
#include "syncbn/threads.h"

namespace bench {
namespace {

enum class Order : char { forward, backward, separate, joint, blocking, overlapped, stop };

// How rank 0 gives orders to one other rank, a thread or a process of the same parent.
class Orders {
 public:
  explicit Orders(int rank)
      : path_(std::filesystem::temp_directory_path() / fmt::format("syncbn-ranks-{}-{}", getppid(), rank)) {
    mkfifo(path_.c_str(), 0600);  // whoever comes first makes it
    pipe_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    if (pipe_ < 0) throw std::runtime_error("no pipe: " + path_);
  }
  Orders(const Orders&) = delete;
  Orders& operator=(const Orders&) = delete;
  ~Orders() {
    close(pipe_);
    unlink(path_.c_str());
  }
  void give(Order order) {
    if (write(pipe_, &order, 1) != 1) throw std::runtime_error("write: " + path_);
  }
  Order take() {
    Order order{};
    if (read(pipe_, &order, 1) != 1) throw std::runtime_error("read: " + path_);
    return order;
  }

 private:
  std::string path_;
  int pipe_;
};

void call(Syncbn& layer, Order order) { order == Order::forward ? layer.forward() : layer.backward(); }

// The share of this rank: samples are the outermost dimension in both layouts.
Problem share_of(Problem problem, int ranks) {
  problem.dims[0] /= ranks;
  return problem;
}

struct Measurement {
  const Report& report;
  std::string engine;
  int cores;

  // Both directions on a batch of which every rank has a share.
  void run(const std::string& suite, const Problem& whole) const {
    const int rank = syncbn::get_rank(), size = syncbn::get_group_size();
    const Tensors own(share_of(whole, size));
    syncbn::set_num_threads(std::max(1, cores / size));
    Syncbn together(own);
    together.backward();
    if (rank != 0) {
      Orders orders(rank);
      for (Order order = orders.take(); order != Order::stop; order = orders.take()) call(together, order);
      return;
    }
    std::vector<std::unique_ptr<Orders>> others;
    for (int r = 1; r < size; ++r) others.push_back(std::make_unique<Orders>(r));
    const auto tell = [&](Order order) {
      for (const auto& other : others) other->give(order);
    };
    const Tensors all(whole);
    syncbn::SyncBatchNormOptions options;
    options.process_group = "alone";
    syncbn::set_num_threads(cores);
    Syncbn alone(all, options);
    for (const auto& [name, order] : {std::pair{"forward", Order::forward}, {"backward", Order::backward}}) {
      auto about = describe(suite, whole, name);
      about["engine"] = engine;
      about["ranks"] = size;
      report.compare(about, std::vector<Contender>{{"alone",
                                                    [&, order = order] {
                                                      syncbn::set_num_threads(cores);
                                                      call(alone, order);
                                                    }},
                                                   {"together", [&, order = order] {
                                                      syncbn::set_num_threads(std::max(1, cores / size));
                                                      tell(order);
                                                      call(together, order);
                                                    }}});
    }
    tell(Order::stop);
  }

  // Eight layers' forwards in eight messages and in one; one forward before some other work, and around it.
  void run_joint(std::int64_t channels) const {
    const int rank = syncbn::get_rank(), size = syncbn::get_group_size();
    const Problem problem{{2, channels}};
    const Tensors t(problem);
    syncbn::set_num_threads(1);
    std::vector<syncbn::SyncBatchNorm> layers;
    for (int i = 0; i < 8; ++i) layers.emplace_back(channels);
    std::vector<syncbn::Saved> saved(layers.size());
    const syncbn::ForwardTensors tensors{t.view(t.x), t.view(t.y), std::nullopt};
    std::vector<float> other(1 << 16, 1);
    const auto work = [&] {  // about as long as a message
      for (int pass = 0; pass < 16; ++pass) {
        for (float& value : other) value = value * 0.5F + 0.5F;
      }
    };
    syncbn::JointCall joint;
    const auto make = [&](Order order) {
      switch (order) {
        case Order::separate:
          for (std::size_t i = 0; i < layers.size(); ++i) layers[i].forward(tensors, saved[i]);
          break;
        case Order::joint:
          for (std::size_t i = 0; i < layers.size(); ++i) joint.forward(layers[i], tensors, saved[i]);
          joint.finish();
          break;
        case Order::blocking:
          layers[0].forward(tensors, saved[0]);
          work();
          break;
        default:
          joint.forward(layers[0], tensors, saved[0]);
          joint.start();
          work();
          joint.finish();
      }
    };
    make(Order::separate);
    if (rank != 0) {
      Orders orders(rank);
      for (Order order = orders.take(); order != Order::stop; order = orders.take()) make(order);
      return;
    }
    std::vector<std::unique_ptr<Orders>> others;
    for (int r = 1; r < size; ++r) others.push_back(std::make_unique<Orders>(r));
    const auto tell = [&](Order order) {
      for (const auto& one : others) one->give(order);
    };
    auto about = describe("joint", problem, "forward");
    about["engine"] = engine;
    about["ranks"] = size;
    std::vector<Contender> contenders;
    for (const auto& [name, order] : {std::pair{"separate", Order::separate},
                                      {"joint", Order::joint},
                                      {"blocking", Order::blocking},
                                      {"overlapped", Order::overlapped}}) {
      contenders.push_back({name, [&, order = order] {
                              tell(order);
                              make(order);
                            }});
    }
    contenders.push_back({"work", work});
    report.compare(about, contenders);
    tell(Order::stop);
  }

  void run_all() const {
    const int size = syncbn::get_group_size();
    if (syncbn::get_rank() == 0) syncbn::create_group("alone", {0});
    for (const auto layout : {syncbn::Layout::channels_first, syncbn::Layout::channels_last}) {
      if (size > cores) break;
      for (const auto& dims : report.settings().large_shapes()) run("ranks", {dims, layout});
    }
    // So few elements that a call is its message.
    for (const std::int64_t channels : {64, 256, 1024, 4096}) run("message", {{2 * size, channels}});
    for (const std::int64_t channels : {64, 512}) run_joint(channels);
  }
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const bench::Report report(bench::Settings::parse(argc, argv));
  syncbn::set_num_threads(0);
  const auto cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  syncbn::init();
  if (syncbn::get_group_size() > 1) {
    const bool mpi = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
    bench::Measurement{report, mpi ? "mpi" : "gloo", cores}.run_all();
    syncbn::release();
  } else {
    syncbn::release();
    syncbn::run_ranks(report.settings().ranks, [&](int) {
      bench::Measurement{report, "threads", cores}.run_all();
    });
  }
}
