// SPDX-License-Identifier: Apache-2.0
#include "layer/collective_call.h"

namespace syncbn::layer {

void run_locally(CallPart& part, const group::CallDescription& description) {
  naming_call(description, [&] {
    part.check();
    part.compute_locally();
  });
  part.commit();
}

CollectiveCall::~CollectiveCall() {
  if (pending_) group_->give_up(*pending_);
}

void CollectiveCall::append(CallPart& part, const group::CallDescription& description) {
  const Entry entry{&part, &description, words_, part.words()};
  words_ += entry.words;
  // The words keep what they hold: zeros would be one more pass over the message, 3 % of a call.
  if (message_.size() < words_) message_.resize(words_);
  part.write_sums(piece(entry));
  entries_.push_back(entry);
}

void CollectiveCall::fail(const group::CallDescription& description, const char* reason) {
  group_->fail(description, reason);
  clear();
}

void CollectiveCall::run(Group& group, CallPart& part, const group::CallDescription& description) {
  if (group.size() == 1) {
    group.sum(description, {});  // sends nothing, but the group may be closed
    return run_locally(part, description);
  }
  clear();
  add(group, part, description, [] {});
  group.sum(description, message());
  compute_results(entries_.front());
  part.commit();
}

void CollectiveCall::start() {
  if (empty() || pending_) return;
  // One part is known by its own description, several by all of theirs.
  joint_ = *entries_.front().description;
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    joint_.subject += " + " + entries_[i].description->subject;
    joint_.settings += ", " + entries_[i].description->settings;
    joint_.layers.push_back(entries_[i].description->layers.front());
    joint_.hash.reset();
  }
  pending_.emplace(group::PendingSum{joint_, message()});
  group_->start(*pending_);
}

void CollectiveCall::compute_results(const Entry& entry) {
  naming_call(*entry.description, [&] { entry.part->compute_results(piece(entry)); });
}

void CollectiveCall::finish() {
  start();
  if (!pending_) return;
  group_->wait(*pending_);
  // Steps that may fail come before the first layer changes.
  for (const Entry& entry : entries_) compute_results(entry);
  for (const Entry& entry : entries_) entry.part->commit();
  clear();
}

void CollectiveCall::clear() {
  pending_.reset();
  entries_.clear();
  words_ = 0;
}

}  // namespace syncbn::layer
