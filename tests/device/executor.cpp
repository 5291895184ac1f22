// SPDX-License-Identifier: Apache-2.0
#include "device/executor.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "device/simt.h"

namespace syncbn::device::simt {
namespace {

constexpr std::size_t kStack = 64 << 10;
constexpr std::size_t kSharedBytes = 48 << 10;  // what a block has without asking for more

class Block;
thread_local Block* current = nullptr;
thread_local Schedule schedule;

// A stack that runs one thread of a block after another. Switches are jumps: swapcontext, which makes two
// system calls, is for the first start alone.
class Fiber {
 public:
  // Runs the block's thread until it waits or ends.
  void resume(jmp_buf& caller) {
    if (_setjmp(caller) != 0) return;
    if (started_) _longjmp(place_, 1);
    started_ = true;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = kStack;
    makecontext(&context_, &Fiber::loop, 0);
    setcontext(&context_);
  }
  void suspend(jmp_buf& caller) {
    if (_setjmp(place_) == 0) _longjmp(caller, 1);
  }

 private:
  static void loop();

  std::unique_ptr<char[]> stack_ = std::make_unique<char[]>(kStack);
  bool started_ = false;
  ucontext_t context_{};
  jmp_buf place_{};
};
// The fibers of the calling thread. A fault abandons its fibers where they are, and takes new ones.
thread_local std::vector<std::unique_ptr<Fiber>> fibers, abandoned;

// A block's threads. Each runs until it waits for others, and goes on when all of them have come.
class Block {
 public:
  Block(const Place& place, Order order, unsigned seed)
      : place_(place),
        order_(order),
        random_(seed),
        threads_(place.threads),
        warps_((place.threads + kWarp - 1) / kWarp),
        shared_(kSharedBytes, std::byte{0xA5}) {}

  void run(const std::function<void()>& body) {
    body_ = &body;
    while (fibers.size() < place_.threads) fibers.push_back(std::make_unique<Fiber>());
    std::vector<unsigned> turn(place_.threads);
    for (unsigned t = 0; t < place_.threads; ++t) {
      turn[t] = order_ == Order::backward ? place_.threads - 1 - t : t;
    }
    for (unsigned left = place_.threads; left > 0;) {
      if (order_ == Order::shuffled) std::shuffle(turn.begin(), turn.end(), random_);
      bool moved = false;
      for (const unsigned t : turn) {
        if (threads_[t].done || threads_[t].waits) continue;
        moved = true;
        running_ = t;
        fibers[t]->resume(main_);
        if (fault_) leave(*fault_);
        if (threads_[t].done) --left;
      }
      if (!moved) {
        leave("deadlock: " + std::to_string(left) + " threads of block " + std::to_string(place_.block) +
              " wait for threads that do not come");
      }
    }
  }

  // Runs the thread that has its turn, on the calling fiber.
  void run_thread() {
    (*body_)();
    threads_[running_].done = true;
    suspend();
  }

  Place here() const {
    Place place = place_;
    place.thread = running_;
    return place;
  }
  unsigned number_in_warp() const { return running_ % kWarp; }
  void barrier() { wait(block_, place_.threads); }
  const std::uint64_t* exchange(std::uint64_t mine) {
    const unsigned first = running_ / kWarp * kWarp;
    Warp& warp = warps_[first / kWarp];
    // Two turns, so that nobody overwrites what is still to be read.
    auto& brought = warp.brought[threads_[running_].exchanges++ % 2];
    brought[number_in_warp()] = mine;
    wait(warp.gate, std::min(kWarp, place_.threads - first));
    return brought.data();
  }
  void* shared(const void* key, std::size_t bytes) {
    for (const auto& [known, memory] : allocated_) {
      if (known == key) return memory;
    }
    bytes = (bytes + 15) / 16 * 16;
    if (bytes > shared_.size() - used_)
      fail("shared memory: " + std::to_string(used_ + bytes) + " bytes of a block");
    void* memory = shared_.data() + std::exchange(used_, used_ + bytes);
    allocated_.emplace_back(key, memory);
    return memory;
  }
  // Ends the block. An exception does not leave a fiber.
  void fail(std::string why) {
    fault_ = std::move(why);
    suspend();
  }

 private:
  struct Gate {
    unsigned arrived = 0;
    std::vector<unsigned> waiting;
  };
  struct Warp {
    Gate gate;
    std::array<std::array<std::uint64_t, kWarp>, 2> brought{};
  };
  struct Thread {
    bool done = false, waits = false;
    unsigned exchanges = 0;
  };

  void suspend() { fibers[running_]->suspend(main_); }
  [[noreturn]] void leave(const std::string& why) {
    std::ranges::move(fibers, std::back_inserter(abandoned));
    fibers.clear();
    throw Fault(why);
  }
  void wait(Gate& gate, unsigned threads) {
    if (++gate.arrived == threads) {
      gate.arrived = 0;
      for (const unsigned t : gate.waiting) threads_[t].waits = false;
      gate.waiting.clear();
      return;
    }
    gate.waiting.push_back(running_);
    threads_[running_].waits = true;
    suspend();
  }

  const Place place_;
  const Order order_;
  std::mt19937 random_;
  std::vector<Thread> threads_;
  Gate block_;
  std::vector<Warp> warps_;
  std::vector<std::byte> shared_;
  std::size_t used_ = 0;
  std::vector<std::pair<const void*, void*>> allocated_;
  jmp_buf main_{};
  unsigned running_ = 0;
  const std::function<void()>* body_ = nullptr;
  std::optional<std::string> fault_;
};

// After a block the fiber waits in suspend(), and goes on with a thread of the next block.
void Fiber::loop() {
  for (;;) current->run_thread();
}

}  // namespace

Scheduled::Scheduled(Order order, unsigned seed) : before_(std::exchange(schedule, {order, seed})) {}
Scheduled::~Scheduled() { schedule = before_; }

Place here() { return current->here(); }
void barrier() { current->barrier(); }
const std::uint64_t* exchange(std::uint64_t mine) { return current->exchange(mine); }
unsigned number_in_warp() { return current->number_in_warp(); }
void* shared(const void* key, std::size_t bytes) { return current->shared(key, bytes); }
void check_aligned(const void* memory, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(memory) % bytes != 0) {
    current->fail("misaligned: an access of " + std::to_string(bytes) + " bytes");
  }
}

void run_blocks(unsigned blocks, unsigned threads, const std::function<void()>& body) {
  std::vector<unsigned> turn(blocks);
  for (unsigned i = 0; i < blocks; ++i) turn[i] = schedule.order == Order::backward ? blocks - 1 - i : i;
  std::mt19937 random(schedule.seed);
  if (schedule.order == Order::shuffled) std::shuffle(turn.begin(), turn.end(), random);
  for (const unsigned number : turn) {
    Block block({0, threads, number, blocks}, schedule.order, static_cast<unsigned>(random()));
    Block* const before = std::exchange(current, &block);
    try {
      block.run(body);
    } catch (...) {
      current = before;
      throw;
    }
    current = before;
  }
}

}  // namespace syncbn::device::simt
