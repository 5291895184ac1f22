// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/dtypes.h"
#include "group/agreed_sum.h"
#include "group/group.h"
#include "kernels/kernels.h"
#include "layer/collective_call.h"
#include "layer/parameters.h"
#include "syncbn/framework.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn::world {
class World;
}

namespace syncbn::layer {

/// Effect of a training forward on the running statistics and the counter.
enum class Tracking : std::uint8_t { move, keep };

/// Memory of one call, per channel. A layer keeps it from call to call.
struct Workspace {
  explicit Workspace(const DeviceMemory& memory) : columns(memory) {}

  Saved saved;  ///< Result of a forward, until it commits.
  BackwardSums sums;
  kernels::Workspace columns;
};

/// State of a layer.
struct Core {
  Core(std::int64_t num_features, const SyncBatchNormOptions& options);

  /// The layer's group; looked up if the layer was made before init(). @throws GroupError also on the thread
  /// of another rank of run_ranks than the one that the layer belongs to
  Group& joined_group();
  const std::string& name() const { return options.name; }
  /// Description of a call for the group; made once for each direction and dtype. No dtype: a call
  /// that has failed before it had one.
  const group::CallDescription& description(Direction direction, std::optional<DType> input);
  /// True if the backward of that forward joins the group's sum.
  bool is_collective(const Saved& from) const;
  /// Moves the running statistics by what a training forward has left, in this thread's FpEnvironment.
  void track(const Saved& from);
  void forward(const ForwardTensors& tensors, Saved& result, Tracking tracking);
  /// `sums` may be null.
  void backward(const Saved& from, const BackwardTensors& tensors, BackwardSums* sums);
  /// Makes a call, with the group if it is collective.
  void run(CallPart& part, bool collective, Direction direction, DType input);

  std::int64_t num_features;
  SyncBatchNormOptions options;
  const kernels::DeviceEntry& device;
  Parameters parameters;
  bool training = true;
  Saved saved;
  std::int64_t number = next_layer_number();  ///< That of the framework's layer if a framework has set it.
  std::string naming = "SyncBatchNormOptions::name";  ///< How a program gives a name; for messages.
  std::shared_ptr<Group> joined;
  Workspace work;

 private:
  void join_by_name(std::string_view group);
  void refuse_other_rank() const;

  // The world on the rank's thread whose group was joined; null: any thread.
  const world::World* rank_world_ = nullptr;

  CollectiveCall call_;
  // By direction, then by dtype; the last of a direction is without dtype.
  std::array<std::array<std::optional<group::CallDescription>, std::size(base::kDTypes) + 1>, 3>
      descriptions_;
};

}  // namespace syncbn::layer

namespace syncbn {
struct SyncBatchNorm::Impl : layer::Core {
  using layer::Core::Core;
};
}  // namespace syncbn
