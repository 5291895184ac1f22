// SPDX-License-Identifier: Apache-2.0
#include "thrower.h"

#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "syncbn/syncbn.h"

void throw_error(const std::string& name) {
  if (name == "Error") throw syncbn::Error("thrown");
  if (name == "InvalidArgument") throw syncbn::InvalidArgument("thrown");
  if (name == "MismatchError") throw syncbn::MismatchError("thrown");
  if (name == "PeerError") throw syncbn::PeerError("thrown");
  if (name == "TimeoutError") throw syncbn::TimeoutError("thrown");
  if (name == "GroupError") throw syncbn::GroupError("thrown");
  if (name == "Interrupted") throw syncbn::Interrupted();
  throw std::logic_error("thrown");
}

namespace {

class Engine final : public syncbn::Communicator {
 public:
  explicit Engine(std::string error) : error_(std::move(error)) {}
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    words_.resize(words);
    return words_;
  }
  void start(std::size_t) override {}
  void wait(syncbn::Deadline) override { throw_error(error_); }
  void abort() noexcept override {}

 private:
  std::string error_;
  std::vector<std::int64_t> words_;
};

}  // namespace

std::unique_ptr<syncbn::Communicator> engine_with_error(const std::string& name) {
  return std::make_unique<Engine>(name);
}
