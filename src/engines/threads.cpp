// Ranks as threads of one process: the embedded default, and what the tests run their ranks on
#include "engines/threads.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "engines/handshake.h"
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
    operation_ = board_->bring(rank_, std::span(buffer_).first(words));
  }
  void wait(Deadline deadline) override {
    const std::shared_ptr<const SumBoard::Operation> operation = std::move(operation_);
    board_->await(rank_, *operation, deadline);
    // Complete, so nobody writes to it any more.
    std::transform(operation->sums.begin(), operation->sums.end(), buffer_.begin(),
                   [](std::uint64_t sum) { return static_cast<std::int64_t>(sum); });
  }
  void abort() noexcept override { board_->leave(rank_, "has left the group"); }

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
  void note_peer_error() noexcept override {}  // run_ranks sees all errors

 private:
  const std::shared_ptr<ThreadWorld> world_;
  const int rank_;
};

// Group rank, ranks.size() for a rank that is no member.
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
  std::erase_if(boards_,
                [](const auto& board) { return board.second.use_count() == 1 && board.second->taken(); });
  std::shared_ptr<SumBoard>& board = boards_[key];
  if (board == nullptr) {
    board = std::make_shared<SumBoard>(spec.ranks);
    for (const auto& [left, reason] : left_) board->leave(position(spec.ranks, left), reason);
  }
  const int member = position(spec.ranks, rank);
  board->take(member);
  return std::make_unique<ThreadCommunicator>(board, member);
}

void ThreadWorld::leave(int rank, const std::string& reason) {
  const std::lock_guard lock(
      mutex_);  // first, so that whoever leaves in consequence is behind on every board
  store_->leave(rank, reason);
  left_.emplace_back(rank, reason);
  for (const auto& [key, board] : boards_) board->leave(position(board->ranks(), rank), reason);
}

}  // namespace syncbn::engines
