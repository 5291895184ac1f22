// SPDX-License-Identifier: Apache-2.0

// Engine "threads": the ranks are threads of one process. run_ranks() and the tests use it.
#include "engines/threads.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "engines/list_agreement.h"
#include "engines/sum_board.h"

namespace syncbn::engines {

namespace {

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<SumBoard> board, int rank) : board_(std::move(board)), rank_(rank) {}
  ~ThreadCommunicator() override { abort(); }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(board_->ranks().size()); }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (buffer_.size() < words) buffer_.resize(words);
    return buffer_;
  }
  void start(std::size_t words) override {
    operation_ = board_->contribute(rank_, std::span(buffer_).first(words));
  }
  void wait(Deadline deadline) override {
    const std::shared_ptr<const SumBoard::Operation> operation = std::move(operation_);
    board_->wait(rank_, *operation, deadline);
    // The operation is complete, so no thread writes to its sums.
    std::transform(operation->sums.begin(), operation->sums.end(), buffer_.begin(),
                   [](std::uint64_t sum) { return static_cast<std::int64_t>(sum); });
  }
  void abort() noexcept override { board_->depart(rank_, "has left the group"); }

 private:
  const std::shared_ptr<SumBoard> board_;
  const int rank_;
  std::vector<std::int64_t> buffer_;
  std::shared_ptr<const SumBoard::Operation> operation_;
};

class ThreadEngine final : public group::Engine {
 public:
  ThreadEngine(std::shared_ptr<ThreadWorld> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  const std::vector<std::string>& hosts() const override { return world_->hosts(); }
  std::unique_ptr<Communicator> connect(const group::GroupSpec& spec, Deadline deadline) override {
    return world_->connect(spec, rank_, deadline);
  }
  void note_peer_error() noexcept override {}  // run_ranks sees the errors of all ranks

 private:
  const std::shared_ptr<ThreadWorld> world_;
  const int rank_;
};

// Group rank of `world_rank`; ranks.size() if it is not in the group.
int position(const std::vector<int>& ranks, int world_rank) {
  return static_cast<int>(std::find(ranks.begin(), ranks.end(), world_rank) - ranks.begin());
}

}  // namespace

ThreadWorld::ThreadWorld(int size)
    : hosts_(static_cast<std::size_t>(size), "localhost"),
      store_(std::make_shared<rendezvous::MemoryBoard>()) {}
ThreadWorld::~ThreadWorld() = default;

std::unique_ptr<group::Engine> ThreadWorld::engine(int rank) {
  return std::make_unique<ThreadEngine>(shared_from_this(), rank);
}

std::unique_ptr<Communicator> ThreadWorld::connect(const group::GroupSpec& spec, int rank,
                                                   Deadline deadline) {
  rendezvous::MemoryStore store(store_, spec.ranks);
  const std::string key = agree_on_list(store, spec, rank, deadline);
  const std::lock_guard lock(mutex_);
  std::erase_if(boards_, [](const auto& board) {
    return board.second.use_count() == 1 && board.second->all_attached();
  });
  std::shared_ptr<SumBoard>& board = boards_[key];
  if (board == nullptr) {
    board = std::make_shared<SumBoard>(spec.ranks);
    for (const auto& [departed, reason] : departures_) board->depart(position(spec.ranks, departed), reason);
  }
  const int member = position(spec.ranks, rank);
  board->attach(member);
  return std::make_unique<ThreadCommunicator>(board, member);
}

void ThreadWorld::depart(int rank, const std::string& reason) {
  // Held throughout, so that ranks that depart as a consequence come later on every board.
  const std::lock_guard lock(mutex_);
  store_->depart(rank, reason);
  departures_.emplace_back(rank, reason);
  for (const auto& [key, board] : boards_) board->depart(position(board->ranks(), rank), reason);
}

}  // namespace syncbn::engines
