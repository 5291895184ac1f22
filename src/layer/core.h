// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

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

enum class Direction : std::uint8_t { forward, backward, double_backward };

/// Memory of one call, per channel. A layer keeps it from call to call.
struct Workspace {
  explicit Workspace(const DeviceMemory& memory) : kernels(memory) {}

  Saved saved;  ///< What a forward makes, until it commits.
  BackwardSums sums;
  kernels::Workspace kernels;
};

/// State of a layer.
struct Core {
  Core(std::int64_t num_features, const SyncBatchNormOptions& options);

  /// The layer's group; looked up if the layer was made before init(). @throws GroupError also on the thread
  /// of another rank of run_ranks than the one that the layer belongs to
  Group& joined_group();
  /// What this layer tells the group about a call; made once for each direction and dtype. No dtype: a call
  /// that has failed before it had one.
  const group::CallDescription& description(Direction direction, std::optional<DType> input);
  /// Whether the backward of that forward joins the group's sum.
  bool is_collective(const Saved& from) const;
  /// Moves the running statistics by what a training forward has left, in this thread's FpEnvironment.
  void track(const Saved& from);
  /// Without `track` running statistics and counter stay.
  void forward(const ForwardTensors& tensors, Saved& result, bool track);
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
  std::string name;
  std::shared_ptr<Group> joined;
  Workspace work;

 private:
  void join(std::shared_ptr<Group> found);
  void join_by_name(std::string_view group);
  void refuse_other_rank() const;

  // The world on the rank's thread whose group was joined; null: any thread.
  const world::World* rank_world_ = nullptr;

  CollectiveCall call_;
  static constexpr std::size_t kDTypes = 4;
  std::array<std::optional<group::CallDescription>, 3 * (kDTypes + 1)>
      descriptions_;  // directions; dtypes and none
};

kernels::Geometry geometry_of(const ConstTensorView& x);
template <class View>
auto* data_or_null(const std::optional<View>& view) {
  return view ? view->data : nullptr;
}
/// Makes all columns of a Saved or of BackwardSums hold one value a channel. The values are unspecified.
template <class Struct>
void resize_columns(Struct& columns, std::int64_t channels, const DeviceMemory& memory) {
  for (const auto column : Struct::kColumns)
    (columns.*column).resize(static_cast<std::size_t>(channels), memory);
}

/// Common members of the parts: the layer, and what its call needs of x.
class LayerPart : public CallPart {
 protected:
  LayerPart(Core& layer, const ConstTensorView& x)
      : layer_(layer), geometry_(geometry_of(x)), kernels_(layer.device.kernels(x.dtype)) {}
  const exact::SumFormat& format() const { return exact::sum_format(geometry_.dtype); }
  /// Length of the records of all channels.
  std::size_t record_words() const {
    return static_cast<std::size_t>(layer_.num_features * format().words());
  }

  Core& layer_;
  const kernels::Geometry geometry_;
  const kernels::Kernels& kernels_;
};

class ForwardPart final : public LayerPart {
 public:
  /// `tensors` and `result` stay in place until commit(). Without `track` running statistics and counter
  /// stay.
  ForwardPart(Core& layer, const ForwardTensors& tensors, Saved& result, bool track, Workspace& work);

  void check() const override;
  std::size_t words() const override;
  void start(std::span<std::int64_t> message) override;
  void finish(std::span<const std::int64_t> message) override;
  void run_alone() override;
  void commit() override;

 private:
  void prepare(Saved::Statistics statistics);
  bool has_batch() const;
  void check_finite() const;
  kernels::ForwardCall call() const;

  const ForwardTensors& tensors_;
  Saved& result_;
  const bool track_;
  Workspace& work_;
};

class BackwardPart final : public LayerPart {
 public:
  /// `from` and `tensors` stay in place until commit(). `result` may be null.
  BackwardPart(Core& layer, const Saved& from, const BackwardTensors& tensors, BackwardSums* result,
               Workspace& work);

  void check() const override;
  std::size_t words() const override;
  void start(std::span<std::int64_t> message) override;
  void finish(std::span<const std::int64_t> message) override;
  void run_alone() override;
  void commit() override;

 private:
  void prepare();
  kernels::BackwardCall call() const;

  const Saved& from_;
  const BackwardTensors& tensors_;
  BackwardSums* const result_;
  Workspace& work_;
};

}  // namespace syncbn::layer

namespace syncbn {
struct SyncBatchNorm::Impl : layer::Core {
  using layer::Core::Core;
};
}  // namespace syncbn
