// SPDX-License-Identifier: Apache-2.0
#include "syncbn/sync_batch_norm.h"

#include <fmt/core.h>

#include <utility>

#include "layer/core.h"
#include "syncbn/error.h"

namespace syncbn {

SyncBatchNorm::SyncBatchNorm(std::int64_t num_features, const SyncBatchNormOptions& options)
    : impl_(std::make_shared<Impl>(num_features, options)) {}
SyncBatchNorm::~SyncBatchNorm() = default;
SyncBatchNorm::SyncBatchNorm(SyncBatchNorm&&) noexcept = default;
SyncBatchNorm& SyncBatchNorm::operator=(SyncBatchNorm&&) noexcept = default;

std::int64_t SyncBatchNorm::num_features() const { return impl_->num_features; }
const SyncBatchNormOptions& SyncBatchNorm::options() const { return impl_->options; }
const std::string& SyncBatchNorm::name() const { return impl_->name(); }
bool SyncBatchNorm::training() const { return impl_->training; }
void SyncBatchNorm::set_train(bool mode) { impl_->training = mode; }

void SyncBatchNorm::forward(const ForwardTensors& tensors) { forward(tensors, impl_->saved); }
void SyncBatchNorm::forward(const ForwardTensors& tensors, Saved& saved) {
  impl_->forward(tensors, saved, layer::Tracking::move);
}
void SyncBatchNorm::backward(const BackwardTensors& tensors) { backward(impl_->saved, tensors); }
void SyncBatchNorm::backward(const Saved& saved, const BackwardTensors& tensors) {
  impl_->backward(saved, tensors, nullptr);
}
const Saved& SyncBatchNorm::saved() const { return impl_->saved; }

std::vector<StateEntry> SyncBatchNorm::state() { return impl_->parameters.state(); }
std::vector<StateEntry> SyncBatchNorm::gradients() { return impl_->parameters.gradients(); }
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
