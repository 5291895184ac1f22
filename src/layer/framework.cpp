// SPDX-License-Identifier: Apache-2.0
#include "syncbn/framework.h"

#include <atomic>
#include <utility>

#include "base/fp_environment.h"
#include "layer/core.h"
#include "layer/parts.h"

namespace syncbn {

std::int64_t next_layer_number() {
  static std::atomic<std::int64_t> last{0};
  return ++last;
}

FrameworkHooks::FrameworkHooks(SyncBatchNorm& layer) : impl_(layer.impl_) {}

void FrameworkHooks::identify(std::int64_t number) { impl_->number = number; }
void FrameworkHooks::set_naming(std::string naming) { impl_->naming = std::move(naming); }

void FrameworkHooks::bind(std::string_view entry, void* memory) { impl_->parameters.bind(entry, memory); }

void FrameworkHooks::normalize(const ForwardTensors& tensors, Saved& saved) {
  impl_->forward(tensors, saved, layer::Tracking::keep);
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

bool FrameworkHooks::is_collective(const Saved& saved) const { return impl_->is_collective(saved); }
// Peers compare the dtype only if no rank failed.
void FrameworkHooks::fail(Direction direction, const std::string& reason) {
  impl_->joined_group().fail(impl_->description(direction, std::nullopt), reason);
}

}  // namespace syncbn
