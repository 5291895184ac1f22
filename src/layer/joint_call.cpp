// SPDX-License-Identifier: Apache-2.0
#include "syncbn/joint_call.h"

#include <fmt/core.h>

#include <exception>
#include <utility>
#include <vector>

#include "base/fp_environment.h"
#include "layer/checks.h"
#include "layer/parts.h"
#include "syncbn/error.h"

namespace syncbn {
namespace {

// A part and all that it refers to. The layer outlives the program's layer object.
template <class Part, class Tensors>
struct Owned {
  // `saved` and `last`: as in the constructor of the part.
  template <class SavedValues, class Last>
  Owned(std::shared_ptr<layer::Core> core, const Tensors& given, SavedValues& saved, Last last)
      : layer(std::move(core)),
        tensors(given),
        work(layer->device.memory),
        part(*layer, tensors, saved, last, work) {}

  std::shared_ptr<layer::Core> layer;
  Tensors tensors;
  layer::Workspace work;
  Part part;
};
using OwnedForward = Owned<layer::ForwardPart, ForwardTensors>;
using OwnedBackward = Owned<layer::BackwardPart, BackwardTensors>;

// Clears the call if the scope ends by an exception.
template <class Call>
class ClearOnThrow {
 public:
  explicit ClearOnThrow(Call& call) : call_(call) {}
  ~ClearOnThrow() {
    if (std::uncaught_exceptions() > exceptions_) call_.clear();
  }
  ClearOnThrow(const ClearOnThrow&) = delete;
  ClearOnThrow& operator=(const ClearOnThrow&) = delete;

 private:
  Call& call_;
  const int exceptions_ = std::uncaught_exceptions();
};

}  // namespace

struct JointCall::Impl {
  // True if the call has something to send. A call that has nothing to send is made at once, apart from the
  // calls before it.
  bool takes(layer::Core& layer, bool collective, const layer::Uses& its_uses) const {
    if (call.started()) throw InvalidArgument("JointCall: it was started; finish() comes first");
    if (collective && layer.joined_group().size() > 1) return true;
    layer::check_apart(its_uses, uses);
    return false;
  }

  template <class Owned>
  void add(std::shared_ptr<Owned> owned, const group::CallDescription& description,
           const layer::Uses& its_uses) {
    const base::FpEnvironment environment;
    const layer::Core& layer = *owned->layer;
    if (call.empty()) group = layer.joined;
    const ClearOnThrow guard(*this);
    call.add(*group, owned->part, description, [&] {
      if (layer.joined != group) {
        throw InvalidArgument(fmt::format("layer: of group '{}', expected the group of this JointCall, '{}'",
                                          layer.joined->name(), group->name()));
      }
      layer::check_apart(its_uses, uses);
      uses.insert(uses.end(), its_uses.begin(), its_uses.end());
      parts.push_back(owned);
    });
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
  const layer::Uses uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(core, core.training, uses)) return layer.forward(tensors, saved);
  impl_->add(std::make_shared<OwnedForward>(layer.impl_, tensors, saved, layer::Tracking::move),
             core.description(Direction::forward, tensors.x.dtype), uses);
}

void JointCall::backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors) {
  layer::Core& core = *layer.impl_;
  const layer::Uses uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(core, core.is_collective(saved), uses)) return layer.backward(saved, tensors);
  impl_->add(std::make_shared<OwnedBackward>(layer.impl_, tensors, saved, nullptr),
             core.description(Direction::backward, tensors.x.dtype), uses);
}

void JointCall::start() {
  const ClearOnThrow guard(*impl_);
  impl_->call.start();
}
void JointCall::finish() {
  const base::FpEnvironment environment;
  const ClearOnThrow guard(*impl_);
  impl_->call.finish();
  impl_->clear();
}

}  // namespace syncbn
