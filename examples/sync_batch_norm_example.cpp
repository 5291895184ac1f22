// SPDX-License-Identifier: Apache-2.0

// The example in the documentation of MindSpore's mint.nn.SyncBatchNorm, in C++, and what it leaves out:
// training, the backward pass, and data that differs between the ranks. Every rank prints one table.
//
//     syncbn-run --worker_num=2 --local_worker_num=2 --join=True sync_batch_norm_example
//     mpirun -n 2 sync_batch_norm_example
//     sync_batch_norm_example --threads 2        # both ranks as threads of one process: the same bits

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "ranks.h"
#include "syncbn/syncbn.h"
#include "table.h"

namespace {

std::vector<float> linspace(double first, double last, int count) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i)
    values.push_back(static_cast<float>(first + i * (last - first) / (count - 1)));
  return values;
}

std::vector<float> upstream_gradient(int count) {  // made up, as if a loss stood behind the layer
  std::vector<float> dy;
  for (int i = 0; i < count; ++i) dy.push_back(static_cast<float>((i * 7) % 11 - 5) / 8);
  return dy;
}

Table documented_example() {
  syncbn::init();
  const std::string group = "0-1";
  syncbn::create_group(group, {0, 1});
  const int rank = syncbn::get_rank(group);
  const int local_rank = syncbn::get_local_rank(group);
  Table table(fmt::format("rank {} of {} in group {}, local rank {}", rank, syncbn::get_group_size(group),
                          group, local_rank));

  syncbn::SyncBatchNormOptions options;
  options.process_group = group;
  const syncbn::Shape shape{2, 2, 2, 2};
  std::vector<float> y(16), dx(16);

  syncbn::SyncBatchNorm layer(2, options);
  layer.set_train(false);
  std::vector<float> x = linspace(0, 5, 16);
  layer.forward(view(x, shape), view(y, shape));
  table.section("evaluation, x = linspace(0, 5, 16) as (2, 2, 2, 2): x / sqrt(1 + 1e-5), nothing is sent");
  table.values("y", y);

  layer.set_train(true);
  layer.forward(view(x, shape), view(y, shape));
  layer.backward(view(upstream_gradient(16), shape), view(x, shape), view(dx, shape));
  table.section("training, every rank with the same x");
  table.channels({{"mean", layer.saved().mean},
                  {"variance", layer.saved().var},
                  {"running_mean", layer.values<float>("running_mean")},
                  {"running_var", layer.values<float>("running_var")},
                  {"weight_grad", layer.values<float>("weight_grad")},
                  {"bias_grad", layer.values<float>("bias_grad")}});
  table.values("y", y);
  table.values("dx", dx);

  // Without running statistics evaluation takes the local batch's: what this rank would do without a group.
  syncbn::SyncBatchNorm together(2, options);
  options.track_running_stats = false;
  syncbn::SyncBatchNorm alone(2, options);
  alone.set_train(false);
  std::vector<float> y_alone(16);
  x = linspace(rank, 2 * rank + 1, 16);
  together.forward(view(x, shape), view(y, shape));
  alone.forward(view(x, shape), view(y_alone, shape));
  table.section(
      fmt::format("training, x = linspace({}, {}, 16) on this rank: its own statistics, and the group's",
                  rank, 2 * rank + 1));
  table.channels({{"own mean", alone.saved().mean},
                  {"group mean", together.saved().mean},
                  {"own variance", alone.saved().var},
                  {"group variance", together.saved().var},
                  {"running_mean", together.values<float>("running_mean")},
                  {"running_var", together.values<float>("running_var")}});
  table.values("y, own", y_alone);
  table.values("y, group", y);
  return table;
}

// Value of `--threads`: 0 without arguments, -1 if the arguments are something else.
int parse_threads(const std::vector<std::string_view>& arguments) {
  if (arguments.empty()) return 0;
  if (arguments.size() != 2 || arguments[0] != "--threads") return -1;
  const char* const end = arguments[1].data() + arguments[1].size();
  int threads = 0;
  const bool parsed = std::from_chars(arguments[1].data(), end, threads).ptr == end;
  return parsed && threads >= 1 && threads <= 64 ? threads : -1;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = parse_threads({argv + 1, argv + argc});
  if (threads < 0) {
    std::fputs(
        "usage: sync_batch_norm_example [--threads N], N from 1 to 64: ranks as threads of this process\n",
        stderr);
    return 2;
  }

  std::vector<std::string> tables(static_cast<std::size_t>(std::max(threads, 1)));
  const int exit_code = run_on_ranks(
      threads, [&](int index) { tables[static_cast<std::size_t>(index)] = documented_example().text(); });
  for (const std::string& table : tables) write_at_once(table);
  return exit_code;
}
