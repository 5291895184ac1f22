// SPDX-License-Identifier: Apache-2.0

// syncbn against itself, one rank: fused forms, dtypes, heavy tails, evaluation; the overhead of a call; the
// finish.
#include <fmt/core.h>

#include "contenders.h"
#include "exact/finish.h"
#include "kernels/loops.h"
#include "kernels/plan.h"

namespace bench {
namespace {

using syncbn::Activation;
using syncbn::DType;
using syncbn::Layout;

// The three forms, and the copy that prices the further tensors which the fused ones read or write.
void fused(const Report& report, const Problem& problem) {
  if (!report.wants(describe("fused", problem, "forward")) &&
      !report.wants(describe("fused", problem, "backward"))) {
    return;
  }
  const Tensors t(problem);
  const Buffer residual(problem, 3), d_residual(problem.bytes());
  syncbn::SyncBatchNormOptions relu_options;
  relu_options.activation = Activation::relu;
  Syncbn plain(t), relu(t, relu_options), both(t, relu_options);
  both.add_residual(t.view(residual), t.view(d_residual));
  report.compare(describe("fused", problem, "forward"),
                 std::vector<Contender>{{"plain", [&] { plain.forward(); }},
                                        {"relu", [&] { relu.forward(); }},
                                        {"residual_relu", [&] { both.forward(); }},
                                        forward_copy(t)});
  report.compare(describe("fused", problem, "backward"),
                 std::vector<Contender>{{"plain", [&] { plain.backward(); }},
                                        {"relu", [&] { relu.backward(); }},
                                        {"residual_relu", [&] { both.backward(); }},
                                        forward_copy(t)});
}

void dtypes(const Report& report, const Problem& problem) {
  if (!report.wants(describe("dtypes", problem, "forward")) &&
      !report.wants(describe("dtypes", problem, "backward"))) {
    return;
  }
  const auto with = [&](DType dtype) {
    Problem other = problem;
    other.dtype = dtype;
    return other;
  };
  const Tensors t32(problem), t16(with(DType::float16)), tb16(with(DType::bfloat16));
  Syncbn f32(t32), f16(t16), bf16(tb16);
  report.compare(describe("dtypes", problem, "forward"),
                 std::vector<Contender>{{"float32", [&] { f32.forward(); }},
                                        {"float16", [&] { f16.forward(); }},
                                        {"bfloat16", [&] { bf16.forward(); }}});
  report.compare(describe("dtypes", problem, "backward"),
                 std::vector<Contender>{{"float32", [&] { f32.backward(); }},
                                        {"float16", [&] { f16.backward(); }},
                                        {"bfloat16", [&] { bf16.backward(); }}});
}

void heavy_tails(const Report& report, const Problem& problem) {
  if (!report.wants(describe("tails", problem, "forward")) &&
      !report.wants(describe("tails", problem, "backward"))) {
    return;
  }
  std::vector<std::unique_ptr<Tensors>> tensors;
  std::vector<std::unique_ptr<Syncbn>> layers;
  std::vector<Contender> forward, backward;
  for (const Data data : {Data::normal, Data::lognormal, Data::cauchy, Data::spread}) {
    Problem other = problem;
    other.data = data;
    tensors.push_back(std::make_unique<Tensors>(other));
    layers.push_back(std::make_unique<Syncbn>(*tensors.back()));
    Syncbn& layer = *layers.back();
    forward.push_back({std::string(name_of(data)), [&layer] { layer.forward(); }});
    backward.push_back({std::string(name_of(data)), [&layer] { layer.backward(); }});
  }
  report.compare(describe("tails", problem, "forward"), forward);
  report.compare(describe("tails", problem, "backward"), backward);
}

void evaluation(const Report& report, const Problem& problem) {
  if (!report.wants(describe("evaluation", problem, "forward"))) return;
  const Tensors t(problem);
  Syncbn layer(t);
  layer.layer().set_train(false);
  report.compare(describe("evaluation", problem, "forward"),
                 std::vector<Contender>{{"syncbn", [&] { layer.forward(); }}, forward_copy(t)});
}

// From sums to coefficients, for many channels: the time per channel is the sample divided by their number.
void finish(const Report& report) {
  constexpr std::int64_t kChannels = 1 << 14, kSamples = 64;
  const Problem problem{{kSamples, kChannels}};
  const auto about = describe("finish", problem, "forward");
  if (!report.wants(about)) return;
  const syncbn::exact::SumFormat& format = syncbn::exact::sum_format(DType::float32);
  const Buffer x(problem, 1);
  std::vector<std::int64_t> records(static_cast<std::size_t>(kChannels * format.words()));
  syncbn::kernels::accumulate(syncbn::kernels::loops<float>().accumulate, {x.data()}, {x.data()},
                              {DType::float32, Layout::channels_last, kSamples, kChannels, 1},
                              {records.data(), format}, syncbn::kernels::Use::finish);
  std::vector<syncbn::exact::Statistics> statistics(kChannels);
  report.compare(
      about, std::vector<Contender>{{"16384 channels", [&] {
                                       syncbn::kernels::for_each_channels(
                                           kChannels, [&](std::int64_t first, std::int64_t count) {
                                             for (std::int64_t c = first; c < first + count; ++c)
                                               statistics[static_cast<std::size_t>(c)] =
                                                   syncbn::exact::statistics(
                                                       syncbn::exact::ConstRecords(records.data(), format)[c],
                                                       kSamples, 1e-5);
                                           });
                                     }}});
}

// How time grows: in N at 256 channels, and in C at a constant number of elements.
void growth(const Report& report) {
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    std::vector<Problem> problems;
    for (const std::int64_t n : {1, 2, 4, 8, 16, 32, 64}) problems.push_back({{n, 256, 28, 28}, layout});
    for (const std::int64_t c : {1, 4, 16, 64, 256, 1024, 4096})
      problems.push_back({{4096 * 4 / c, c, 14, 14}, layout});
    for (const Problem& problem : problems) {
      if (!report.wants(describe("growth", problem, "forward"))) continue;
      const Tensors t(problem);
      Syncbn layer(t);
      report.compare(describe("growth", problem, "forward"),
                     std::vector<Contender>{{"syncbn", [&] { layer.forward(); }}});
      report.compare(describe("growth", problem, "backward"),
                     std::vector<Contender>{{"syncbn", [&] { layer.backward(); }}});
    }
  }
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  const bench::Report report(bench::Settings::parse(argc, argv));
  for (const auto layout : {syncbn::Layout::channels_first, syncbn::Layout::channels_last}) {
    for (const auto& dims : report.settings().large_shapes()) {
      const bench::Problem problem{dims, layout};
      bench::fused(report, problem);
      bench::dtypes(report, problem);
      bench::evaluation(report, problem);
    }
    bench::heavy_tails(report, {{32, 256, 56, 56}, layout});
  }
  bench::finish(report);
  if (!report.settings().quick) bench::growth(report);
}
