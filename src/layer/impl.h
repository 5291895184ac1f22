#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "group/agreed_sum.h"
#include "group/group.h"
#include "kernels/batch.h"
#include "kernels/parallel_for.h"
#include "layer/parameters.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn {

/// The layer's state and its two calls. Each call goes through the same steps: check, accumulate, join the
/// group's sum, finish, apply, commit; what changes state comes last and does not throw.
struct SyncBatchNorm::Impl {
  enum class Direction : std::uint8_t { forward, backward, double_backward };

  Impl(std::int64_t num_features, const SyncBatchNormOptions& options);

  void forward(const ForwardTensors& tensors, Saved& saved);  // forward.cpp
  void normalize(const ForwardTensors& tensors, Saved& saved);
  void track(const Saved& saved);
  void backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums* sums);  // backward.cpp
  void double_backward(const Saved& saved, const BackwardSums& sums,
                       const DoubleBackwardTensors& tensors);  // double_backward.cpp

  /// Looks the group up where construction came before init. @throws GroupError
  Group& joined_group();
  /// What this layer tells the group about a call; made once for each direction and dtype.
  const group::Call& call(Direction direction, DType input);
  /// Runs `prepare`, the part of a collective call that may fail on this rank alone; then the peers hear of
  /// it.
  template <class Prepare>
  void prepare_or_fail(Group& peers, const group::Call& description, const Prepare& prepare) {
    try {
      prepare();
    } catch (const std::exception& error) {
      peers.fail(description, error.what());
      throw;
    }
  }

  std::int64_t num_features;
  SyncBatchNormOptions options;
  layer::Parameters parameters;
  bool training = true;
  Saved saved;
  std::string name;
  std::shared_ptr<Group> joined;

 private:
  void join(std::shared_ptr<Group> found);
  void normalize_training(const ForwardTensors& tensors, Saved& result);
  void normalize_evaluation(const ForwardTensors& tensors, Saved& result) const;

  std::array<std::optional<group::Call>, 15> calls_;  // for each direction, four dtypes and none of them
};

namespace layer {

inline kernels::Geometry geometry_of(const ConstTensorView& x) {
  const Layout layout = x.shape.spatial() == 1 ? Layout::channels_last : x.layout;
  return {x.dtype, layout, x.shape.samples(), x.shape.channels(), x.shape.spatial()};
}

/// body(channel) for every channel, in parallel.
template <class Body>
void for_each_channel(std::int64_t channels, const Body& body) {
  constexpr std::int64_t kTogether = 64;  // some µs of work
  kernels::parallel_for(static_cast<int>((channels + kTogether - 1) / kTogether), [&](int task) {
    const std::int64_t end = std::min(channels, (task + 1) * kTogether);
    for (std::int64_t c = task * kTogether; c < end; ++c) body(c);
  });
}

/// Some arrays of (C,), one after the other.
template <class T>
class Columns {
 public:
  Columns(std::int64_t count, std::int64_t channels)
      : channels_(channels), values_(static_cast<std::size_t>(count * channels)) {}
  T* operator[](std::int64_t column) { return values_.data() + column * channels_; }

 private:
  std::int64_t channels_;
  std::vector<T> values_;
};

}  // namespace layer
}  // namespace syncbn
