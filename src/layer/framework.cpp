// SPDX-License-Identifier: Apache-2.0
#include "syncbn/framework.h"

#include "base/fp_environment.h"
#include "layer/core.h"
#include "layer/double_backward.h"

namespace syncbn {

using layer::Direction;

FrameworkHooks::FrameworkHooks(SyncBatchNorm& layer) : impl_(layer.impl_) {}

void FrameworkHooks::bind(std::string_view entry, void* memory) { impl_->parameters.bind(entry, memory); }

void FrameworkHooks::normalize(const ForwardTensors& tensors, Saved& saved) {
  impl_->forward(tensors, saved, false);
}
void FrameworkHooks::track(const Saved& saved) {
  const base::FpEnvironment environment;
  impl_->track(saved);
}
void FrameworkHooks::backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums& sums) {
  impl_->backward(saved, tensors, &sums);
}
void FrameworkHooks::double_backward(const Saved& saved, const BackwardSums& sums,
                                     const DoubleBackwardTensors& tensors) {
  layer::DoubleBackwardPart part(*impl_, saved, sums, tensors);
  impl_->run(part, impl_->is_collective(saved), Direction::double_backward, tensors.x.dtype);
}

// Peers compare the dtype only if nobody failed.
void FrameworkHooks::fail(const std::string& reason) {
  if (!impl_->training) return;
  impl_->joined_group().fail(impl_->description(Direction::forward, std::nullopt), reason);
}
void FrameworkHooks::fail(const Saved& saved, const std::string& reason) {
  if (!impl_->is_collective(saved)) return;
  impl_->joined_group().fail(impl_->description(Direction::backward, std::nullopt), reason);
}

}  // namespace syncbn
