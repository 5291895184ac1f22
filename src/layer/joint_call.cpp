// SPDX-License-Identifier: Apache-2.0
#include "syncbn/joint_call.h"

#include <fmt/core.h>

#include <utility>
#include <vector>

#include "base/fp_environment.h"
#include "layer/checks.h"
#include "layer/core.h"
#include "syncbn/error.h"

namespace syncbn {
namespace {

// A part and all that it refers to. The layer outlives the program's layer object.
struct OwnedForward {
  OwnedForward(std::shared_ptr<layer::Core> core, const ForwardTensors& given, Saved& saved)
      : layer(std::move(core)),
        tensors(given),
        work(layer->device.memory),
        part(*layer, tensors, saved, true, work) {}

  std::shared_ptr<layer::Core> layer;
  ForwardTensors tensors;
  layer::Workspace work;
  layer::ForwardPart part;
};
struct OwnedBackward {
  OwnedBackward(std::shared_ptr<layer::Core> core, const Saved& saved, const BackwardTensors& given)
      : layer(std::move(core)),
        tensors(given),
        work(layer->device.memory),
        part(*layer, saved, tensors, nullptr, work) {}

  std::shared_ptr<layer::Core> layer;
  BackwardTensors tensors;
  layer::Workspace work;
  layer::BackwardPart part;
};

}  // namespace

struct JointCall::Impl {
  // Whether the call has something to send. A call that has nothing to send is made at once, apart from the
  // calls before it.
  bool takes(layer::Core& layer, bool collective, const std::vector<layer::Use>& its_uses) const {
    if (call.started()) throw InvalidArgument("JointCall: it was started; finish() comes first");
    if (collective && layer.joined_group().size() > 1) return true;
    layer::check_apart(its_uses, uses);
    return false;
  }

  template <class Owned>
  void add(std::shared_ptr<Owned> owned, const group::CallDescription& description,
           const std::vector<layer::Use>& its_uses) {
    const base::FpEnvironment environment;
    const layer::Core& layer = *owned->layer;
    if (call.empty()) group = layer.joined;
    try {
      call.add(*group, owned->part, description, [&] {
        if (layer.joined != group) {
          throw InvalidArgument(
              fmt::format("layer: of group '{}', expected the group of this JointCall, '{}'",
                          layer.joined->name(), group->name()));
        }
        layer::check_apart(its_uses, uses);
        uses.insert(uses.end(), its_uses.begin(), its_uses.end());
        parts.push_back(owned);
      });
    } catch (...) {
      clear();
      throw;
    }
  }

  // Runs one half of the call. After a throw, and after finish(), this object is empty.
  template <class Half>
  void run(const Half& half) {
    try {
      half();
    } catch (...) {
      clear();
      throw;
    }
    if (call.empty()) clear();
  }

  void clear() {
    call.clear();
    parts.clear();
    uses.clear();
    group.reset();
  }

  std::shared_ptr<Group> group;
  std::vector<std::shared_ptr<void>> parts;
  std::vector<layer::Use> uses;  // of all parts
  layer::CollectiveCall call;
};

JointCall::JointCall() : impl_(std::make_unique<Impl>()) {}
JointCall::~JointCall() = default;
JointCall::JointCall(JointCall&&) noexcept = default;
JointCall& JointCall::operator=(JointCall&&) noexcept = default;

void JointCall::forward(SyncBatchNorm& layer, const ForwardTensors& tensors, Saved& saved) {
  layer::Core& core = *layer.impl_;
  const std::vector<layer::Use> uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(core, core.training, uses)) return layer.forward(tensors, saved);
  impl_->add(std::make_shared<OwnedForward>(layer.impl_, tensors, saved),
             core.description(layer::Direction::forward, tensors.x.dtype), uses);
}

void JointCall::backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors) {
  layer::Core& core = *layer.impl_;
  const std::vector<layer::Use> uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(core, core.is_collective(saved), uses)) return layer.backward(saved, tensors);
  impl_->add(std::make_shared<OwnedBackward>(layer.impl_, saved, tensors),
             core.description(layer::Direction::backward, tensors.x.dtype), uses);
}

void JointCall::start() {
  impl_->run([this] { impl_->call.start(); });
}
void JointCall::finish() {
  const base::FpEnvironment environment;
  impl_->run([this] { impl_->call.finish(); });
}

}  // namespace syncbn
