// SPDX-License-Identifier: Apache-2.0

// Several ranks on this machine against one rank with all cores, interleaved. Under a launcher (mpirun,
// syncbn-run) ranks are its processes, else threads, --ranks of them. Rank 0 measures; the other
// ranks sleep until rank 0 orders calls, so that they take no time from the contender that runs alone.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "contenders.h"
#include "syncbn/group.h"
#include "syncbn/joint_call.h"
#include "syncbn/threads.h"
#include "world/resolve_group.h"

namespace bench {
namespace {

// Rank 0's order to the other ranks: `count` calls of a step of the comparison.
struct Order {
  int step;  // negative: the comparison is over
  int count;
};

// Channel for orders from rank 0 to one other rank, a thread or a process of the same parent.
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
    if (write(pipe_, &order, sizeof order) != sizeof order) throw std::runtime_error("write: " + path_);
  }
  Order take() {
    Order order{};
    if (read(pipe_, &order, sizeof order) != sizeof order) throw std::runtime_error("read: " + path_);
    return order;
  }

 private:
  std::string path_;
  int pipe_;
};

// The share of this rank: samples are the outermost dimension in both layouts.
Problem share_of(Problem problem, int ranks) {
  problem.dims[0] /= ranks;
  return problem;
}

class Measurement {
 public:
  Measurement(const Report& report, std::string engine, int cores)
      : report_(report), engine_(std::move(engine)), cores_(cores) {
    for (int r = 1; r < size_; ++r) {
      if (rank_ == 0 || rank_ == r) orders_.push_back(std::make_unique<Orders>(r));
    }
  }

  void run_all() const {
    if (rank_ == 0) syncbn::create_group("alone", {0});
    for (const auto layout : {syncbn::Layout::channels_first, syncbn::Layout::channels_last}) {
      if (size_ > cores_) break;
      for (const auto& dims : report_.settings().large_shapes()) run_layer("ranks", {dims, layout});
    }
    // So few elements that a call is its message.
    for (const std::int64_t channels : {64, 256, 1024, 2048}) run_layer("message", {{2 * size_, channels}});
    for (const std::int64_t channels : {64, 256, 1024, 2048}) run_sums(channels);
    for (const std::int64_t channels : {64, 512}) run_joint(channels);
  }

 private:
  // Compares steps that all ranks make together, and what rank 0 does alone while the others sleep.
  void compare(nlohmann::json about, const std::vector<Contender>& steps,
               const std::vector<Contender>& alone = {}) const {
    if (rank_ != 0) {
      for (Order order = orders_[0]->take(); order.step >= 0; order = orders_[0]->take()) {
        for (int i = 0; i < order.count; ++i) steps[static_cast<std::size_t>(order.step)].call();
      }
      return;
    }
    const auto tell = [&](Order order) {
      for (const auto& other : orders_) other->give(order);
    };
    std::vector<Contender> contenders = alone;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      contenders.push_back({steps[i].name, steps[i].call, [&tell, i](int count) {
                              tell({static_cast<int>(i), count});
                            }});
    }
    about["engine"] = engine_;
    about["ranks"] = size_;
    report_.compare(about, contenders);
    tell({-1, 0});
  }

  // Compares both directions on a batch that is shared by all ranks with one rank that has the whole batch
  // and all cores.
  void run_layer(const std::string& suite, const Problem& whole) const {
    const Tensors own(share_of(whole, size_));
    const int threads = std::max(1, cores_ / size_);
    syncbn::set_num_threads(threads);
    Syncbn together(own);
    std::optional<Tensors> all;
    std::optional<Syncbn> single;
    if (rank_ == 0) {
      all.emplace(whole);
      syncbn::SyncBatchNormOptions options;
      options.process_group = "alone";
      single.emplace(*all, options);
    }
    for (const auto& [direction, call] :
         {std::pair{"forward", &Syncbn::forward}, std::pair{"backward", &Syncbn::backward}}) {
      const auto with = [call = call](Syncbn& layer, int count) {
        syncbn::set_num_threads(count);
        (layer.*call)();
      };
      compare(describe(suite, whole, direction), {{"together", [&] { with(together, threads); }}},
              {{"alone", [&] { with(*single, cores_); }}});
    }
  }

  // A sum of so many words a channel, with the header that every sum has.
  void run_sums(std::int64_t channels) const {
    const auto group = syncbn::world::resolve_group(syncbn::kWorldGroup);
    std::vector<std::int64_t> words(static_cast<std::size_t>(23 * channels));
    std::vector<syncbn::group::CallDescription> calls;
    std::vector<Contender> steps;
    for (const std::int64_t each : {23, 8})
      calls.push_back({fmt::format("{} words a channel", each), fmt::format("C={}", channels)});
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const auto count = static_cast<std::size_t>((i == 0 ? 23 : 8) * channels);
      steps.push_back(
          {calls[i].subject, [&, i, count] { group->sum(calls[i], std::span(words).first(count)); }});
    }
    compare(describe("sum", {{size_, channels}}, "forward"), steps);
  }

  // Eight layers' forwards in eight messages and in one; one forward before some other work, and around it.
  void run_joint(std::int64_t channels) const {
    const Problem problem{{2, channels}};
    const Tensors t(problem);
    syncbn::set_num_threads(1);
    std::vector<syncbn::SyncBatchNorm> layers;
    for (int i = 0; i < 8; ++i) layers.emplace_back(channels);
    std::vector<syncbn::Saved> saved(layers.size());
    std::vector<Buffer> outputs;  // what is written together is apart
    std::vector<syncbn::ForwardTensors> tensors;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      outputs.emplace_back(problem.bytes());
      tensors.push_back({t.view(t.x), t.view(outputs.back()), std::nullopt});
    }
    std::vector<float> other(1 << 16, 1);
    const auto work = [&] {  // about as long as a message
      for (int pass = 0; pass < 16; ++pass) {
        for (float& value : other) value = value * 0.5F + 0.5F;
      }
    };
    syncbn::JointCall joint;
    const auto separate = [&] {
      for (std::size_t i = 0; i < layers.size(); ++i) layers[i].forward(tensors[i], saved[i]);
    };
    const auto together = [&] {
      for (std::size_t i = 0; i < layers.size(); ++i) joint.forward(layers[i], tensors[i], saved[i]);
      joint.finish();
    };
    const auto blocking = [&] {
      layers[0].forward(tensors[0], saved[0]);
      work();
    };
    const auto overlapped = [&] {
      joint.forward(layers[0], tensors[0], saved[0]);
      joint.start();
      work();
      joint.finish();
    };
    compare(describe("joint", problem, "forward"),
            {{"separate", separate}, {"joint", together}, {"blocking", blocking}, {"overlapped", overlapped}},
            {{"work", work}});
  }

  const Report& report_;
  const std::string engine_;
  const int cores_;
  const int rank_ = syncbn::get_rank(), size_ = syncbn::get_group_size();
  std::vector<std::unique_ptr<Orders>> orders_;  // of rank 0: to each other; else from it
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
    bench::Measurement(report, mpi ? "mpi" : "gloo", cores).run_all();
    syncbn::release();
  } else {
    syncbn::release();
    syncbn::run_ranks(report.settings().ranks,
                      [&](int) { bench::Measurement(report, "threads", cores).run_all(); });
  }
}
