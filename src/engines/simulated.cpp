// SPDX-License-Identifier: Apache-2.0

// Engine "simulation": one rank without its peers. It shows whether a program for many ranks runs and how
// much memory a rank needs.
#include "engines/simulated.h"

#include <algorithm>
#include <cstdint>
#include <span>

namespace syncbn::engines {
namespace {

class SimulatedCommunicator final : public Communicator {
 public:
  SimulatedCommunicator(int rank, int size) : rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (buffer_.size() < words) buffer_.resize(words);
    return buffer_;
  }
  void start(std::size_t words) override {
    for (std::int64_t& word : std::span(buffer_).first(words)) {  // unsigned, so that it wraps as a sum does
      word = static_cast<std::int64_t>(static_cast<std::uint64_t>(word) * static_cast<std::uint64_t>(size_));
    }
  }
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  const int rank_;
  const int size_;
  std::vector<std::int64_t> buffer_;
};

class SimulatedEngine final : public group::Engine {
 public:
  SimulatedEngine(int rank, int size) : rank_(rank), hosts_(static_cast<std::size_t>(size), "localhost") {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(hosts_.size()); }
  const std::vector<std::string>& hosts() const override { return hosts_; }
  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, Deadline) override {
    const auto position = std::find(spec.ranks.begin(), spec.ranks.end(), rank_) - spec.ranks.begin();
    return std::make_unique<SimulatedCommunicator>(static_cast<int>(position),
                                                   static_cast<int>(spec.ranks.size()));
  }
  void note_peer_error() noexcept override {}  // there are no peers

 private:
  const int rank_;
  const std::vector<std::string> hosts_;
};

}  // namespace

std::unique_ptr<group::Engine> simulated_engine(int rank, int size) {
  return std::make_unique<SimulatedEngine>(rank, size);
}

}  // namespace syncbn::engines
