#include "syncbn/framework.h"

#include "layer/impl.h"

namespace syncbn {

FrameworkHooks::FrameworkHooks(SyncBatchNorm& layer) : impl_(layer.impl_) {}

void FrameworkHooks::bind(std::string_view entry, void* memory) { impl_->parameters.bind(entry, memory); }

void FrameworkHooks::normalize(const ForwardTensors& tensors, Saved& saved) {
  impl_->normalize(tensors, saved);
}
void FrameworkHooks::track(const Saved& saved) { impl_->track(saved); }
void FrameworkHooks::backward(const Saved& saved, const BackwardTensors& tensors, BackwardSums& sums) {
  impl_->backward(saved, tensors, &sums);
}
void FrameworkHooks::double_backward(const Saved& saved, const BackwardSums& sums,
                                     const DoubleBackwardTensors& tensors) {
  impl_->double_backward(saved, sums, tensors);
}

void FrameworkHooks::fail(const std::string& reason) {
  if (!impl_->training) return;
  // The dtype is part of what peers compare only where nobody failed.
  impl_->joined_group().fail(impl_->call(SyncBatchNorm::Impl::Direction::forward, DType{4}), reason);
}
void FrameworkHooks::fail(const Saved& saved, const std::string& reason) {
  if (!impl_->is_collective(saved)) return;
  impl_->joined_group().fail(impl_->call(SyncBatchNorm::Impl::Direction::backward, DType{4}), reason);
}

}  // namespace syncbn
