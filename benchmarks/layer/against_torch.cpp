// SPDX-License-Identifier: Apache-2.0

// One rank, float32, training: syncbn and PyTorch's operator from C++, interleaved. `torch` is
// at::native_batch_norm, which allocates its result as nn.BatchNorm does; `torch_out` writes into
// the given memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include "contenders.h"
#include "syncbn/threads.h"

namespace bench {
namespace {

constexpr double kEps = 1e-5, kMomentum = 0.1;

at::Tensor tensor_of(const Problem& problem, const Buffer& buffer) {
  const auto& d = problem.dims;
  if (d.size() == 4 && problem.channels_last()) {
    return at::from_blob(buffer.data(), d, {d[1] * d[2] * d[3], 1, d[3] * d[1], d[1]}, at::kFloat);
  }
  return at::from_blob(buffer.data(), d, at::kFloat);
}

class Torch {
 public:
  explicit Torch(const Tensors& t)
      : x_(tensor_of(t.problem, t.x)), dy_(tensor_of(t.problem, t.dy)), y_(tensor_of(t.problem, t.y)) {
    const std::int64_t channels = t.problem.shape().channels();
    const auto options = x_.options();
    weight_ = at::ones({channels}, options);
    bias_ = at::zeros({channels}, options);
    running_mean_ = at::zeros({channels}, options);
    running_var_ = at::ones({channels}, options);
    mean_ = at::empty({channels}, options);
    invstd_ = at::empty({channels}, options);
    forward_out();  // a backward needs its mean and invstd
  }
  void forward() {
    at::native_batch_norm(x_, weight_, bias_, running_mean_, running_var_, true, kMomentum, kEps);
  }
  void forward_out() {
    at::native_batch_norm_out(y_, mean_, invstd_, x_, weight_, bias_, running_mean_, running_var_, true,
                              kMomentum, kEps);
  }
  void backward() {
    at::native_batch_norm_backward(dy_, x_, weight_, running_mean_, running_var_, mean_, invstd_, true, kEps,
                                   {true, true, true});
  }

 private:
  at::Tensor x_, dy_, y_, weight_, bias_, running_mean_, running_var_, mean_, invstd_;
};

void run(const Report& report, const Problem& problem) {
  const auto forward = describe("torch", problem, "forward"),
             backward = describe("torch", problem, "backward");
  if (!report.wants(forward) && !report.wants(backward)) return;
  const Tensors t(problem);
  Syncbn syncbn(t);
  Torch torch(t);
  report.compare(forward, std::vector<Contender>{{"syncbn", [&] { syncbn.forward(); }},
                                                 {"torch", [&] { torch.forward(); }},
                                                 {"torch_out", [&] { torch.forward_out(); }},
                                                 forward_copy(t)});
  report.compare(backward, std::vector<Contender>{{"syncbn", [&] { syncbn.backward(); }},
                                                  {"torch", [&] { torch.backward(); }},
                                                  backward_copy(t)});
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  // Freed results stay in the heap: else half of PyTorch's time on large tensors is the kernel giving it
  // pages.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  const at::InferenceMode no_graph;
  at::set_num_threads(syncbn::get_num_threads());
  const bench::Report report(bench::Settings::parse(argc, argv));
  for (const auto layout : {syncbn::Layout::channels_first, syncbn::Layout::channels_last}) {
    for (const auto& dims : report.settings().all_shapes()) bench::run(report, {dims, layout});
  }
}
