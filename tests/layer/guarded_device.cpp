// SPDX-License-Identifier: Apache-2.0
#include "layer/guarded_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/kernels.h"

namespace syncbn::testing {
namespace {

std::atomic<long> kernel_calls{0};

// Memory of one thread. Blocks are taken one after the other; the arena starts anew when all are released.
class Arena {
 public:
  static constexpr std::size_t kBytes = std::size_t{64} << 20;

  explicit Arena(std::byte* base) : base_(base) {}

  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (blocks_ == 0) used_ = 0;
    bytes = (bytes + 63) / 64 * 64 + 64;  // no two blocks touch
    if (bytes > kBytes - used_) throw std::bad_alloc();
    ++blocks_;
    return base_ + std::exchange(used_, used_ + bytes);
  }
  void release() {
    const std::lock_guard lock(mutex_);
    --blocks_;
  }
  // Takes the arena for a thread, if it is no other's and nothing is left in it.
  bool claim() {
    const std::lock_guard lock(mutex_);
    return blocks_ == 0 && !std::exchange(has_thread_, true);
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    has_thread_ = false;
  }
  void count_layer_calls(int change) { count(layer_calls_, change); }
  void count_kernels(int change) { count(kernels_, change); }

 private:
  bool is_open() const { return layer_calls_ == 0 || kernels_ > 0; }
  void count(int& calls, int change) {
    const std::lock_guard lock(mutex_);
    const bool was_open = is_open();
    calls += change;
    if (was_open == is_open()) return;
    if (mprotect(base_, kBytes, was_open ? PROT_NONE : PROT_READ | PROT_WRITE) != 0) std::abort();
  }

  std::byte* const base_;
  std::mutex mutex_;
  std::size_t used_ = 0;
  long blocks_ = 0;
  bool has_thread_ = false;
  int layer_calls_ = 0, kernels_ = 0;  // of the arena's thread, under way
};

// The memory of the device: an arena for each thread that is alive.
class Arenas {
 public:
  Arenas() {
    void* base = mmap(nullptr, kArenas * Arena::kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(base);
    for (std::size_t i = 0; i < kArenas; ++i) arenas_.emplace_back(base_ + i * Arena::kBytes);
  }

  Arena& of_this_thread() {
    struct Claim {
      explicit Claim(std::deque<Arena>& arenas)
          : arena(*std::ranges::find_if(arenas, [](Arena& a) { return a.claim(); })) {}
      ~Claim() { arena.leave(); }
      Arena& arena;
    };
    thread_local Claim claim(arenas_);
    return claim.arena;
  }
  Arena& of(const void* memory) {
    return arenas_[static_cast<std::size_t>(static_cast<const std::byte*>(memory) - base_) / Arena::kBytes];
  }

 private:
  static constexpr std::size_t kArenas = 32;
  std::byte* base_;
  std::deque<Arena> arenas_;
};

// Never destroyed: threads may end later.
Arenas& arenas() {
  static Arenas& all = *new Arenas;
  return all;
}

// Opens the calling thread's memory to a kernel.
class Access {
 public:
  Access() {
    ++kernel_calls;
    arena_.count_kernels(1);
  }
  ~Access() { arena_.count_kernels(-1); }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

 private:
  Arena& arena_ = arenas().of_this_thread();
};

class GuardedKernels final : public kernels::Kernels {
 public:
  explicit GuardedKernels(DType dtype) : cpu_(kernels::cpu().kernels(dtype)) {}

  void clear(Saved& saved) const override {
    const Access access;
    cpu_.clear(saved);
  }
  void clear(BackwardSums& sums) const override {
    const Access access;
    cpu_.clear(sums);
  }
  void fill(const kernels::Values& values, std::int64_t channels, double value) const override {
    const Access access;
    cpu_.fill(values, channels, value);
  }
  void accumulate(const kernels::ForwardCall& call, exact::Records records) const override {
    const Access access;
    cpu_.accumulate(call, records);
  }
  void normalize(const kernels::ForwardCall& call, exact::ConstRecords records) const override {
    const Access access;
    cpu_.normalize(call, records);
  }
  void normalize_alone(const kernels::ForwardCall& call) const override {
    const Access access;
    cpu_.normalize_alone(call);
  }
  void normalize_by(const kernels::ForwardCall& call,
                    const kernels::RunningStatistics& running) const override {
    const Access access;
    cpu_.normalize_by(call, running);
  }
  std::optional<kernels::NonfiniteChannel> find_nonfinite(const Saved& saved) const override {
    const Access access;
    return cpu_.find_nonfinite(saved);
  }
  void track(const kernels::RunningStatistics& running, const Saved& saved, std::optional<double> momentum,
             bool skip_nonfinite) const override {
    const Access access;
    cpu_.track(running, saved, momentum, skip_nonfinite);
  }
  void accumulate(const kernels::BackwardCall& call, exact::Records records) const override {
    const Access access;
    cpu_.accumulate(call, records);
  }
  void differentiate(const kernels::BackwardCall& call, exact::ConstRecords records) const override {
    const Access access;
    cpu_.differentiate(call, records);
  }
  void differentiate_alone(const kernels::BackwardCall& call) const override {
    const Access access;
    cpu_.differentiate_alone(call);
  }
  void affine_gradients(const kernels::Values& weight_grad, const kernels::Values& bias_grad, const Column& a,
                        const Column& b, const Column& invstd, bool empty) const override {
    const Access access;
    cpu_.affine_gradients(weight_grad, bias_grad, a, b, invstd, empty);
  }
  std::size_t double_backward_words(std::int64_t channels) const override {
    return cpu_.double_backward_words(channels);
  }
  void accumulate(const kernels::DoubleBackwardCall& call, std::span<std::int64_t> message) const override {
    const Access access;
    cpu_.accumulate(call, message);
  }
  void double_differentiate(const kernels::DoubleBackwardCall& call,
                            std::span<const std::int64_t> message) const override {
    const Access access;
    cpu_.double_differentiate(call, message);
  }

 private:
  const kernels::Kernels& cpu_;
};

constexpr DeviceMemory kMemory{allocate_guarded, release_guarded,
                               [](void* to, const void* from, std::size_t bytes) {
                                 const Access access;
                                 std::memcpy(to, from, bytes);
                               }};

constexpr kernels::DeviceEntry kGuarded{"guarded", kMemory, [](DType dtype) -> const kernels::Kernels& {
                                          static const GuardedKernels all[] = {
                                              GuardedKernels(DType::float16), GuardedKernels(DType::bfloat16),
                                              GuardedKernels(DType::float32), GuardedKernels(DType::float64)};
                                          return all[static_cast<std::size_t>(dtype) % 4];
                                        }};

}  // namespace

Device guarded_device() {
  static const Device device = [] {
    const Device made{static_cast<Device::Type>(100)};
    kernels::add_device(made, kGuarded);
    return made;
  }();
  return device;
}

void* allocate_guarded(std::size_t bytes) { return arenas().of_this_thread().allocate(bytes); }
void release_guarded(void* memory) noexcept { arenas().of(memory).release(); }

ClosedMemory::ClosedMemory() { arenas().of_this_thread().count_layer_calls(1); }
ClosedMemory::~ClosedMemory() { arenas().of_this_thread().count_layer_calls(-1); }

long guarded_kernel_calls() { return kernel_calls; }

}  // namespace syncbn::testing
