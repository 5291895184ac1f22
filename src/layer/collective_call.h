// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "group/agreed_sum.h"
#include "group/group.h"
#include "syncbn/error.h"

namespace syncbn::layer {

/// One layer's part in a call. In a group the steps are check, write_sums, the group's sum, compute_results
/// and commit. A rank that needs no other rank's sums takes check, compute_locally and commit.
class CallPart {
 public:
  virtual ~CallPart() = default;

  /// Checks the arguments. Reads and writes no element.
  virtual void check() = 0;
  /// Length of this part's piece of the message.
  virtual std::size_t words() const = 0;
  /// Writes this rank's sums to the part's piece of the message, whose words may hold anything before.
  virtual void write_sums(std::span<std::int64_t> message) = 0;
  /// Computes the results from the sums of the group. May throw; changes nothing in the layer.
  virtual void compute_results(std::span<const std::int64_t> message) = 0;
  /// Computes the results from this rank's elements alone, or from constants. As compute_results.
  virtual void compute_locally() = 0;
  /// Changes the layer's state. Does not throw.
  virtual void commit() = 0;
};

/// Runs a step of a call. Its InvalidArgument gets the call's subject at the end.
template <class Step>
void naming_call(const group::CallDescription& description, const Step& step) {
  try {
    step();
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(fmt::format("{} ({})", error.what(), description.subject));
  }
}

/// The whole call of a part that needs no other rank's sums.
void run_locally(CallPart& part, const group::CallDescription& description);

/// A call that all ranks of a group make together: the pieces of all parts travel in one message. If a step
/// before the sum fails on this rank alone, the peers get a PeerError instead of waiting.
class CollectiveCall {
 public:
  CollectiveCall() = default;
  CollectiveCall(const CollectiveCall&) = delete;
  CollectiveCall& operator=(const CollectiveCall&) = delete;
  /// Gives up a sum that was started and not finished.
  ~CollectiveCall();

  bool empty() const { return entries_.empty(); }
  bool started() const { return pending_.has_value(); }

  /// Adds a part: checks it and writes its piece of the message. Part and description stay in place until the
  /// call is over. `check_first()` may throw, too. After a throw the call is empty.
  template <class Check>
  void add(Group& group, CallPart& part, const group::CallDescription& description,
           const Check& check_first) {
    if (entries_.empty()) group_ = &group;
    try {
      naming_call(description, [&] {
        check_first();
        part.check();
      });
      append(part, description);
    } catch (const std::exception& error) {
      fail(description, error.what());
      throw;
    }
  }

  /// The whole call of one part, with one deadline.
  void run(Group& group, CallPart& part, const group::CallDescription& description);
  /// The two halves of the call of all parts; what the program does in between overlaps with the message.
  /// After a throw the owner calls clear().
  void start();
  void finish();
  void clear();

 private:
  struct Entry {
    CallPart* part;
    const group::CallDescription* description;
    std::size_t begin, words;
  };
  void append(CallPart& part, const group::CallDescription& description);
  void fail(const group::CallDescription& description, const char* reason);
  void compute_results(const Entry& entry);
  std::span<std::int64_t> piece(const Entry& entry) {
    return std::span(message_).subspan(entry.begin, entry.words);
  }

  std::span<std::int64_t> message() { return std::span(message_).first(words_); }

  Group* group_ = nullptr;
  std::vector<Entry> entries_;
  std::vector<std::int64_t> message_;
  std::size_t words_ = 0;                     // of the message, in all pieces
  group::CallDescription joint_;              // the description of several parts
  std::optional<group::PendingSum> pending_;  // from start to finish
};

}  // namespace syncbn::layer
