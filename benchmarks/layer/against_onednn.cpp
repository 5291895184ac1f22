// SPDX-License-Identifier: Apache-2.0

// One rank, float32, training: syncbn, oneDNN, plain double loops and the streaming copy, interleaved.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "contenders.h"

namespace bench {
namespace {

constexpr float kEps = 1e-5F;

using Arguments = std::unordered_map<int, dnnl::memory>;

dnnl::memory::format_tag tag_of(const Problem& problem) {
  using enum dnnl::memory::format_tag;
  if (problem.dims.size() == 2) return nc;
  return problem.channels_last() ? nhwc : nchw;
}

// oneDNN's layer, by the fastest of its implementations of this problem.
class OneDnn {
 public:
  explicit OneDnn(const Tensors& tensors) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using enum dnnl::prop_kind;
    const Problem& problem = tensors.problem;
    const dnnl::memory::desc desc(problem.dims, dnnl::memory::data_type::f32, tag_of(problem));
    const auto flags = dnnl::normalization_flags::use_scale_shift;
    const dnnl::batch_normalization_forward::desc forward_desc(forward_training, desc, kEps, flags);
    const dnnl::batch_normalization_backward::desc backward_desc(dnnl::prop_kind::backward, desc, desc, kEps,
                                                                 flags);
    const dnnl::batch_normalization_forward::primitive_desc hint(forward_desc, engine_);
    const auto channels = static_cast<std::size_t>(problem.shape().channels());
    scale_shift_.assign(2 * channels, 0);
    std::fill_n(scale_shift_.begin(), channels, 1.0F);
    gradients_.resize(2 * channels);
    mean_.resize(channels);
    variance_.resize(channels);
    const auto memory = [&](const dnnl::memory::desc& of, void* data) {
      return dnnl::memory(of, engine_, data);
    };
    forward_arguments_ = {{DNNL_ARG_SRC, memory(desc, tensors.x.data())},
                          {DNNL_ARG_DST, memory(desc, tensors.y.data())},
                          {DNNL_ARG_MEAN, memory(hint.mean_desc(), mean_.data())},
                          {DNNL_ARG_VARIANCE, memory(hint.variance_desc(), variance_.data())},
                          {DNNL_ARG_SCALE_SHIFT, memory(hint.weights_desc(), scale_shift_.data())}};
    backward_arguments_ = forward_arguments_;
    backward_arguments_.erase(DNNL_ARG_DST);
    backward_arguments_.insert({{DNNL_ARG_DIFF_DST, memory(desc, tensors.dy.data())},
                                {DNNL_ARG_DIFF_SRC, memory(desc, tensors.dx.data())},
                                {DNNL_ARG_DIFF_SCALE_SHIFT, memory(hint.weights_desc(), gradients_.data())}});
    forward_ = fastest<dnnl::batch_normalization_forward>(
        dnnl::batch_normalization_forward::primitive_desc(forward_desc, engine_), forward_arguments_);
    backward_ = fastest<dnnl::batch_normalization_backward>(
        dnnl::batch_normalization_backward::primitive_desc(backward_desc, engine_, hint),
        backward_arguments_);
  }

  void forward() { run(forward_, forward_arguments_); }
  void backward() { run(backward_, backward_arguments_); }

 private:
  void run(const dnnl::primitive& primitive, const Arguments& arguments) {
    primitive.execute(stream_, arguments);
    stream_.wait();
  }

  template <class Primitive>
  dnnl::primitive fastest(typename Primitive::primitive_desc implementation, const Arguments& arguments) {
    dnnl::primitive best;
    double best_time = 0;
    do {
      const Primitive primitive(implementation);
      const std::vector<Contender> one{{"", [&] { run(primitive, arguments); }}};
      seconds_of(one[0], 1);  // plans and allocates
      // The reference implementations take a second and more a call, and need not be known to the percent.
      if (best && seconds_of(one[0], 1) > 3 * best_time) continue;
      std::vector<double> samples = interleaved(one, 3)[0];
      std::sort(samples.begin(), samples.end());
      if (!best || samples[1] < best_time) {
        best = primitive;
        best_time = samples[1];
      }
    } while (implementation.next_impl());
    return best;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<float> scale_shift_, gradients_, mean_, variance_;
  Arguments forward_arguments_, backward_arguments_;
  dnnl::primitive forward_, backward_;
};

// Ends the program if a contender's result differs: times of different work can't be compared.
void check(const char* who, const Tensors& t, const Buffer& result, const std::vector<float>& expected) {
  const auto* values = static_cast<const float*>(result.data());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::abs(values[i] - expected[i]) <= 1e-3F * (1 + std::abs(expected[i]))) continue;
    fmt::print(stderr, "{} at {}: element {} is {}, expected {}\n", who, name_of(t.problem.dims), i,
               values[i], expected[i]);
    std::exit(EXIT_FAILURE);
  }
}

std::vector<float> copy_of(const Tensors& t, const Buffer& result) {
  const auto* values = static_cast<const float*>(result.data());
  return {values, values + t.problem.elements()};
}

void run(const Report& report, const Problem& problem) {
  auto forward = describe("peers", problem, "forward"), backward = describe("peers", problem, "backward");
  const dnnl::version_t* version = dnnl::version();
  forward["peer"] = backward["peer"] =
      fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
  if (!report.wants(forward) && !report.wants(backward)) return;
  const Tensors t(problem);
  Syncbn syncbn(t);
  OneDnn onednn(t);
  PlainLoops loops(t);
  syncbn.forward();
  syncbn.backward();
  const std::vector<float> y = copy_of(t, t.y), dx = copy_of(t, t.dx);
  onednn.forward();
  check("oneDNN's forward", t, t.y, y);
  onednn.backward();
  check("oneDNN's backward", t, t.dx, dx);
  loops.forward();
  check("the loops' forward", t, t.y, y);
  loops.backward();
  check("the loops' backward", t, t.dx, dx);

  report.compare(forward, std::vector<Contender>{{"syncbn", [&] { syncbn.forward(); }},
                                                 {"onednn", [&] { onednn.forward(); }},
                                                 {"loops", [&] { loops.forward(); }},
                                                 forward_copy(t)});
  report.compare(backward, std::vector<Contender>{{"syncbn", [&] { syncbn.backward(); }},
                                                  {"onednn", [&] { onednn.backward(); }},
                                                  {"loops", [&] { loops.backward(); }},
                                                  backward_copy(t)});
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const bench::Report report(bench::Settings::parse(argc, argv));
  for (const auto layout : {syncbn::Layout::channels_first, syncbn::Layout::channels_last}) {
    for (const auto& dims : report.settings().all_shapes()) bench::run(report, {dims, layout});
  }
}
