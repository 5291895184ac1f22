// SPDX-License-Identifier: Apache-2.0
#include "layer/core.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/fp_environment.h"
#include "device/find.h"
#include "layer/checks.h"
#include "layer/parts.h"
#include "syncbn/error.h"
#include "syncbn/isa.h"
#include "syncbn/threads.h"
#include "syncbn/version.h"
#include "world/current_world.h"
#include "world/resolve_group.h"

namespace syncbn {
namespace {

std::string momentum_text(const SyncBatchNormOptions& options) {
  return options.momentum ? fmt::format("{}", *options.momentum) : "none";
}

const char* affine_text(const SyncBatchNormOptions& options) {
  if (!options.affine) return "false";
  return options.bias ? "true" : "without bias";
}

const char* name_of(Nonfinite nonfinite) {
  switch (nonfinite) {
    case Nonfinite::propagate:
      return "propagate";
    case Nonfinite::skip_update:
      return "skip_update";
    case Nonfinite::error:
      break;
  }
  return "error";
}

std::string text_of(std::string_view layer_name) {
  return layer_name.empty() ? "an unnamed layer" : fmt::format("layer '{}'", layer_name);
}

}  // namespace

std::string describe_call(Direction direction, std::string_view layer_name) {
  static constexpr const char* kNames[] = {"forward", "backward", "double backward"};
  return fmt::format("{} of {}", kNames[static_cast<std::size_t>(direction)], text_of(layer_name));
}

namespace layer {

Core::Core(std::int64_t features, const SyncBatchNormOptions& chosen)
    : num_features((check_options(features, chosen), features)),
      options(chosen),
      device(*device::find(chosen.device)),
      parameters(device, features, chosen),
      work(device.memory) {
  active_isa();  // a wrong SYNCBN_ISA or SYNCBN_NUM_THREADS is an error here, not in the middle of a call
  get_num_threads();
  if (const auto* group = std::get_if<std::shared_ptr<Group>>(&options.process_group)) {
    joined = *group;
  } else if (const auto* group_name = std::get_if<std::string>(&options.process_group)) {
    join_by_name(*group_name);
  } else if (world::current_world() != nullptr) {
    join_by_name(kWorldGroup);
  }
}

void Core::join_by_name(std::string_view group) {
  joined = world::resolve_group(group);
  rank_world_ = world::thread_world();
}

// A thread that has no world may be one that the rank's body has started.
void Core::refuse_other_rank() const {
  const world::World* here = world::thread_world();
  if (here == nullptr || here == rank_world_) return;
  const int rank = joined->ranks()[static_cast<std::size_t>(joined->rank())];
  throw GroupError(
      fmt::format("group '{}', {}: the layer belongs to rank {}, and the calling thread is rank {}{}; "
                  "in run_ranks each rank makes its own layer",
                  joined->name(), text_of(name()), rank, here->rank(),
                  rank == here->rank() ? " of another run_ranks" : ""));
}

Group& Core::joined_group() {
  if (joined == nullptr) join_by_name(kWorldGroup);
  if (rank_world_ != nullptr) refuse_other_rank();
  return *joined;
}

const group::CallDescription& Core::description(Direction direction, std::optional<DType> input) {
  if (input && !base::is_dtype(*input)) input.reset();  // the call will fail
  auto& of_direction = descriptions_[static_cast<std::size_t>(direction)];
  const std::size_t dtype = input ? static_cast<std::size_t>(*input) : of_direction.size() - 1;
  std::optional<group::CallDescription>& known = of_direction[dtype];
  if (!known) {
    known.emplace();
    known->subject = describe_call(direction, name());
    known->settings = fmt::format(
        "C={}, input={}, parameters={}, eps={}, momentum={}, affine={}, track_running_stats={}, "
        "affine_gradients={}, nonfinite={}, activation={}, bits_version={}",
        num_features, input ? syncbn::name_of(*input) : "unknown dtype", syncbn::name_of(options.dtype),
        options.eps, momentum_text(options), affine_text(options), options.track_running_stats,
        options.affine_gradients == AffineGradients::group ? "group" : "local", name_of(options.nonfinite),
        options.activation == Activation::relu ? "relu" : "none", kBitsVersion);
    known->naming = naming;
    known->hash = group::hash_of_texts(*known);
  }
  known->layers.assign(1, {name(), number});
  return *known;
}

bool Core::is_collective(const Saved& from) const {
  // Without a forward the mode decides: in training the peers expect the backward.
  return from.statistics == Saved::Statistics::group_batch ||
         (from.statistics == Saved::Statistics::none && training);
}

void Core::track(const Saved& from) {
  if (from.statistics != Saved::Statistics::group_batch || from.count == 0 ||
      !parameters.has_running_statistics())
    return;
  check_saved(from, num_features, device.memory);
  device.kernels(options.dtype)
      .track(parameters.running(), from, options.momentum, options.nonfinite == Nonfinite::skip_update);
}

void Core::forward(const ForwardTensors& tensors, Saved& result, Tracking tracking) {
  ForwardPart part(*this, tensors, result, tracking, work);
  run(part, training, Direction::forward, tensors.x.dtype);
}

void Core::backward(const Saved& from, const BackwardTensors& tensors, BackwardSums* sums) {
  BackwardPart part(*this, tensors, from, sums, work);
  run(part, is_collective(from), Direction::backward, tensors.x.dtype);
}

void Core::run(CallPart& part, bool collective, Direction direction, DType input) {
  const base::FpEnvironment environment;
  const group::CallDescription& call = description(direction, input);
  if (collective) return call_.run(joined_group(), part, call);
  run_locally(part, call);
}

kernels::Geometry geometry_of(const ConstTensorView& x) {
  const Layout layout = x.shape.spatial() == 1 ? Layout::channels_last : x.layout;
  return {x.dtype, layout, x.shape.samples(), x.shape.channels(), x.shape.spatial()};
}

}  // namespace layer
}  // namespace syncbn
