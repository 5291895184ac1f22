#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/parallel_for.h"
#include "group/agreed_sum.h"
#include "group/group.h"
#include "kernels/batch.h"
#include "layer/parameters.h"
#include "syncbn/framework.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn {

namespace world {
class World;
}

namespace layer {

/// Memory that a layer keeps from call to call, so that a call like the one before allocates nothing. All of
/// it is per channel.
struct Workspace {
  std::vector<std::int64_t> message;
  Saved saved;  ///< What a call makes, until it is done.
  BackwardSums sums;

  /// Coefficients, four arrays of (C,) of the compute type. Each begins with a cache line: vectors that
  /// lie across two lines cost 7 % of an evaluation in channels-last (AVX-512).
  template <class T>
  T* column(int i) {
    return reinterpret_cast<T*>(columns.data() + static_cast<std::size_t>(i) * (columns.size() / 4));
  }
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> columns;

  void resize_forward(std::int64_t channels);
  void resize_backward(std::int64_t channels);
};

}  // namespace layer

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

  /// A training call's two halves, before and after the group's sum, of checked tensors. `message` is this
  /// call's part of it, to be set; of a forward it may be the count alone, and the sums are made later,
  /// `together` channels at a time. The first half may fail on this rank alone, and changes nothing but
  /// `work`, which the second half needs.
  std::size_t forward_words(DType input) const;
  std::size_t backward_words(DType input) const;
  void start_forward(const ForwardTensors& tensors, std::span<std::int64_t> message, bool of_group,
                     layer::Workspace& work) const;
  void finish_forward(const ForwardTensors& tensors, std::int64_t together,
                      std::span<const std::int64_t> message, layer::Workspace& work);
  void start_backward(const Saved& from, const BackwardTensors& tensors, std::span<std::int64_t> records,
                      bool of_group, layer::Workspace& work) const;
  void finish_backward(const Saved& from, const BackwardTensors& tensors,
                       std::span<const std::int64_t> records, bool of_group, layer::Workspace& work);
  /// Whether the backward of that forward joins the group's sum.
  bool is_collective(const Saved& from) const;
  void check(const Saved& from, const BackwardTensors& tensors) const;

  /// The layer's group; looks it up if construction came before init. @throws GroupError also on the thread
  /// of another rank of run_ranks than the one that the layer belongs to
  Group& joined_group();
  /// What this layer tells the group about a call; made once for each direction and dtype.
  const group::CallDescription& call(Direction direction, DType input);
  /// Runs `prepare`, the part of a collective call that may fail on this rank alone; then the peers hear of
  /// it.
  template <class Prepare>
  void prepare_or_fail(Group& peers, const group::CallDescription& description, const Prepare& prepare) {
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
  void join_by_name(std::string_view group);
  void refuse_other_rank() const;
  void make_by_group(const ForwardTensors& tensors);
  void make_alone(const ForwardTensors& tensors);
  void make(const ForwardTensors& tensors);
  void keep_gradients(const Saved& from, std::int64_t positions, const BackwardSums& sums);

  layer::Workspace workspace_;
  const world::World* rank_world_ =
      nullptr;  // the world on a rank's thread whose group was joined; null: any thread

  std::array<std::optional<group::CallDescription>, 15>
      calls_;  // for each direction, four dtypes and none of them
};

namespace layer {

inline kernels::Geometry geometry_of(const ConstTensorView& x) {
  const Layout layout = x.shape.spatial() == 1 ? Layout::channels_last : x.layout;
  return {x.dtype, layout, x.shape.samples(), x.shape.channels(), x.shape.spatial()};
}

/// body(first channel, channels) for all channels, in parallel.
template <class Body>
void for_each_channels(std::int64_t channels, const Body& body) {
  constexpr std::int64_t kTogether = 64;  // some µs of work
  base::parallel_for(static_cast<int>((channels + kTogether - 1) / kTogether), [&](int task) {
    body(task * kTogether, std::min(kTogether, channels - task * kTogether));
  });
}

/// body(channel) for all channels, in parallel.
template <class Body>
void for_each_channel(std::int64_t channels, const Body& body) {
  for_each_channels(channels, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t c = first; c < first + count; ++c) body(c);
  });
}

}  // namespace layer
}  // namespace syncbn
