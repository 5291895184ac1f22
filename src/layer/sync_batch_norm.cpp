#include "syncbn/sync_batch_norm.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "layer/checks.h"
#include "layer/impl.h"
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

// Cache lines of four arrays of doubles, one a channel.
std::size_t lines(std::int64_t channels) { return 4 * ((static_cast<std::size_t>(channels) + 7) / 8); }

}  // namespace

// Zeros are what a call without elements leaves.
void layer::Workspace::resize_forward(std::int64_t channels) {
  for (auto* values : {&saved.mean, &saved.var, &saved.invstd, &saved.scale, &saved.var_unbiased}) {
    values->assign(static_cast<std::size_t>(channels), 0.0);
  }
  columns.resize(lines(channels));
}

void layer::Workspace::resize_backward(std::int64_t channels) {
  for (auto* values : {&sums.a, &sums.b, &sums.own_a, &sums.own_b}) {
    values->assign(static_cast<std::size_t>(channels), 0.0);
  }
  columns.resize(lines(channels));
}

SyncBatchNorm::Impl::Impl(std::int64_t features, const SyncBatchNormOptions& chosen)
    : num_features((layer::check_options(features, chosen), features)),
      options(chosen),
      parameters(features, chosen),
      name(chosen.name) {
  active_isa();  // a wrong SYNCBN_ISA or SYNCBN_NUM_THREADS is an error here, not in the middle of a call
  get_num_threads();
  if (const auto* group = std::get_if<std::shared_ptr<Group>>(&options.process_group)) {
    join(*group);
  } else if (const auto* group_name = std::get_if<std::string>(&options.process_group)) {
    join_by_name(*group_name);
  } else if (world::current_world() != nullptr) {
    join_by_name(kWorldGroup);
  }
}

void SyncBatchNorm::Impl::join(std::shared_ptr<Group> found) {
  joined = std::move(found);
  if (name.empty() && joined->size() > 1) name = fmt::format("#{}", joined->next_layer_number());
}

void SyncBatchNorm::Impl::join_by_name(std::string_view group) {
  join(world::resolve_group(group));
  rank_world_ = world::thread_world();
}

Group& SyncBatchNorm::Impl::joined_group() {
  if (joined == nullptr) join_by_name(kWorldGroup);
  if (rank_world_ != nullptr) refuse_other_rank();
  return *joined;
}

// A thread that has no world may be one that the rank's body has started.
void SyncBatchNorm::Impl::refuse_other_rank() const {
  const world::World* here = world::thread_world();
  if (here == nullptr || here == rank_world_) return;
  const int rank = joined->ranks()[static_cast<std::size_t>(joined->rank())];
  throw GroupError(fmt::format(
      "group '{}', layer '{}': the layer belongs to rank {}, and the calling thread is rank {}{}; "
      "in run_ranks each rank makes its own layer",
      joined->name(), name, rank, here->rank(), rank == here->rank() ? " of another run_ranks" : ""));
}

const group::CallDescription& SyncBatchNorm::Impl::call(Direction direction, DType input) {
  static constexpr const char* kNames[] = {"forward", "backward", "double backward"};
  const auto dtype = std::min<std::size_t>(static_cast<std::size_t>(input), 4);
  std::optional<group::CallDescription>& known = calls_[static_cast<std::size_t>(direction) * 5 + dtype];
  if (!known) {
    known.emplace();
    known->subject = fmt::format("{} of layer '{}'", kNames[static_cast<std::size_t>(direction)], name);
    known->settings = fmt::format(
        "C={}, input={}, parameters={}, eps={}, momentum={}, affine={}, track_running_stats={}, "
        "affine_gradients={}, "
        "nonfinite={}, activation={}, bits_version={}",
        num_features, syncbn::name_of(input), syncbn::name_of(options.dtype), options.eps,
        momentum_text(options), affine_text(options), options.track_running_stats,
        options.affine_gradients == AffineGradients::group ? "group" : "local", name_of(options.nonfinite),
        options.activation == Activation::relu ? "relu" : "none", kBitsVersion);
  }
  return *known;
}

SyncBatchNorm::SyncBatchNorm(std::int64_t num_features, const SyncBatchNormOptions& options)
    : impl_(std::make_shared<Impl>(num_features, options)) {}
SyncBatchNorm::~SyncBatchNorm() = default;
SyncBatchNorm::SyncBatchNorm(SyncBatchNorm&&) noexcept = default;
SyncBatchNorm& SyncBatchNorm::operator=(SyncBatchNorm&&) noexcept = default;

std::int64_t SyncBatchNorm::num_features() const { return impl_->num_features; }
const SyncBatchNormOptions& SyncBatchNorm::options() const { return impl_->options; }
const std::string& SyncBatchNorm::name() const { return impl_->name; }
bool SyncBatchNorm::training() const { return impl_->training; }
void SyncBatchNorm::set_train(bool mode) { impl_->training = mode; }

void SyncBatchNorm::forward(const ForwardTensors& tensors) { impl_->forward(tensors, impl_->saved); }
void SyncBatchNorm::forward(const ForwardTensors& tensors, Saved& saved) { impl_->forward(tensors, saved); }
void SyncBatchNorm::backward(const BackwardTensors& tensors) {
  impl_->backward(impl_->saved, tensors, nullptr);
}
void SyncBatchNorm::backward(const Saved& saved, const BackwardTensors& tensors) {
  impl_->backward(saved, tensors, nullptr);
}
const Saved& SyncBatchNorm::saved() const { return impl_->saved; }

std::vector<StateEntry> SyncBatchNorm::state() { return impl_->parameters.state(); }
std::vector<StateEntry> SyncBatchNorm::gradients() {
  std::vector<StateEntry> entries;
  if (auto& gradient = impl_->parameters.weight_grad) entries.push_back(gradient->entry("weight_grad"));
  if (auto& gradient = impl_->parameters.bias_grad) entries.push_back(gradient->entry("bias_grad"));
  return entries;
}
void SyncBatchNorm::reset_parameters() { impl_->parameters.reset(); }
void SyncBatchNorm::reset_running_stats() { impl_->parameters.reset_running_stats(); }

StateEntry SyncBatchNorm::find(const std::string& name, std::optional<DType> dtype) {
  std::vector<StateEntry> entries = state();
  for (StateEntry& gradient : gradients()) entries.push_back(std::move(gradient));
  std::string names;
  for (const StateEntry& entry : entries) {
    if (entry.name == name) {
      if (entry.dtype == dtype) return entry;
      throw InvalidArgument(fmt::format("values<{}>: '{}' is {}", dtype ? syncbn::name_of(*dtype) : "int64",
                                        name, entry.dtype ? syncbn::name_of(*entry.dtype) : "int64"));
    }
    names += (names.empty() ? "" : ", ") + entry.name;
  }
  throw InvalidArgument(fmt::format("name: '{}', this layer has {}", name, names.empty() ? "none" : names));
}

}  // namespace syncbn
