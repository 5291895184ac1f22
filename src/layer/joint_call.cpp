#include "syncbn/joint_call.h"

#include <fmt/format.h>

#include <span>
#include <utility>
#include <vector>

#include "base/fp_environment.h"
#include "layer/checks.h"
#include "layer/impl.h"
#include "syncbn/error.h"

namespace syncbn {

struct JointCall::Impl {
  // A call between its halves.
  struct Entry {
    std::shared_ptr<SyncBatchNorm::Impl> layer;  // lives on where the layer doesn't
    const group::CallDescription* description;
    // One of the two.
    std::optional<ForwardTensors> forward;
    std::optional<BackwardTensors> backward;
    Saved* result;                     // of forward
    const Saved* from;                 // of backward
    std::size_t begin = 0, words = 0;  // its part of the message
    layer::Workspace work = {};
  };

  ~Impl() {
    if (pending) group->give_up(*pending);
  }

  // Adds a call; `prepare` checks it and fills its part of the message, for which it extends that.
  template <class Prepare>
  void add(Entry entry, const std::vector<layer::Use>& its_uses, const Prepare& prepare) {
    const base::FpEnvironment environment;
    if (group == nullptr) group = entry.layer->joined;
    try {
      entry.layer->prepare_or_fail(*group, *entry.description, [&] {
        if (entry.layer->joined != group) {
          throw InvalidArgument(fmt::format("layer: '{}' is of group '{}', this JointCall of group '{}'",
                                            entry.layer->name, entry.layer->joined->name(), group->name()));
        }
        layer::check_apart(its_uses, uses);
        prepare(entry);
        uses.insert(uses.end(), its_uses.begin(), its_uses.end());
        entries.push_back(std::move(entry));
      });
    } catch (...) {
      clear();
      throw;
    }
  }

  std::span<std::int64_t> extend(Entry& entry, std::size_t words) {
    entry.begin = message.size();
    entry.words = words;
    message.resize(entry.begin + words);
    return part(entry);
  }

  // Whether a call has something to send. What has not is to be made at once, apart from the calls before it.
  bool takes(SyncBatchNorm::Impl& layer, bool collective, const std::vector<layer::Use>& its_uses) const {
    if (pending) throw InvalidArgument("JointCall: it was started; finish() comes first");
    if (collective && layer.joined_group().size() > 1) return true;
    layer::check_apart(its_uses, uses);
    return false;
  }

  // One call is known by its own description, several by all of theirs.
  void describe() {
    description = *entries.front().description;
    for (std::size_t i = 1; i < entries.size(); ++i) {
      description.subject += " + " + entries[i].description->subject;
      description.settings += ", " + entries[i].description->settings;
    }
  }

  std::span<std::int64_t> part(const Entry& entry) {
    return std::span(message).subspan(entry.begin, entry.words);
  }

  void start() {
    if (entries.empty() || pending) return;
    describe();
    pending = std::make_unique<PendingSum>(PendingSum{description, message});
    try {
      group->start(*pending);
    } catch (...) {
      clear();
      throw;
    }
  }

  void finish() {
    const base::FpEnvironment environment;
    start();
    if (!pending) return;
    try {
      group->wait(*pending);
      // What may fail comes before the first layer changes.
      for (Entry& entry : entries) {
        if (entry.forward) entry.layer->finish_forward(*entry.forward, 0, part(entry), entry.work);
      }
      for (Entry& entry : entries) {
        if (entry.backward) {
          entry.layer->finish_backward(*entry.from, *entry.backward, part(entry), true, entry.work);
        } else {
          entry.layer->track(entry.work.saved);
          *entry.result = std::move(entry.work.saved);
        }
      }
    } catch (...) {
      clear();
      throw;
    }
    clear();
  }

  void clear() {
    pending.reset();
    entries.clear();
    uses.clear();
    message.clear();
    group.reset();
  }

  std::shared_ptr<Group> group;
  std::vector<Entry> entries;
  std::vector<layer::Use> uses;  // of all entries
  std::vector<std::int64_t> message;
  group::CallDescription description;
  std::unique_ptr<PendingSum> pending;  // from start to finish
};

JointCall::JointCall() : impl_(std::make_unique<Impl>()) {}
JointCall::~JointCall() = default;
JointCall::JointCall(JointCall&&) noexcept = default;
JointCall& JointCall::operator=(JointCall&&) noexcept = default;

void JointCall::forward(SyncBatchNorm& layer, const ForwardTensors& tensors, Saved& saved) {
  SyncBatchNorm::Impl& of = *layer.impl_;
  const std::vector<layer::Use> uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(of, of.training, uses)) return layer.forward(tensors, saved);
  impl_->add({layer.impl_,
              &of.call(SyncBatchNorm::Impl::Direction::forward, tensors.x.dtype),
              tensors,
              {},
              &saved,
              {}},
             uses, [&](Impl::Entry& entry) {
               layer::check_forward(tensors, of.num_features);
               of.start_forward(tensors, impl_->extend(entry, of.forward_words(tensors.x.dtype)), true,
                                entry.work);
             });
}

void JointCall::backward(SyncBatchNorm& layer, const Saved& saved, const BackwardTensors& tensors) {
  SyncBatchNorm::Impl& of = *layer.impl_;
  const std::vector<layer::Use> uses = layer::uses_of(tensors, saved);
  if (!impl_->takes(of, of.is_collective(saved), uses)) return layer.backward(saved, tensors);
  impl_->add({layer.impl_,
              &of.call(SyncBatchNorm::Impl::Direction::backward, tensors.x.dtype),
              {},
              tensors,
              {},
              &saved},
             uses, [&](Impl::Entry& entry) {
               of.check(saved, tensors);
               of.start_backward(saved, tensors, impl_->extend(entry, of.backward_words(tensors.x.dtype)),
                                 true, entry.work);
             });
}

void JointCall::start() { impl_->start(); }
void JointCall::finish() { impl_->finish(); }

}  // namespace syncbn
