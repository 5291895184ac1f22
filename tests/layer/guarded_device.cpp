// SPDX-License-Identifier: Apache-2.0
#include "layer/guarded_device.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <new>

#include "kernels/kernels.h"
#include "syncbn/framework.h"

namespace syncbn::testing {
namespace {

std::atomic<long> kernel_calls{0};

// Memory of one thread. It is reserved at once, so that a single mprotect reaches all of it.
class Arena {
 public:
  Arena() {
    base_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~Arena() { munmap(base_, kBytes); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* allocate(std::size_t bytes) {
    const std::size_t begin = used_;
    used_ += (bytes + 63) / 64 * 64 + 64;  // no two blocks touch
    if (used_ > kBytes) throw std::bad_alloc();
    return static_cast<std::byte*>(base_) + begin;
  }
  void set_closed(bool closed) {
    closed_ = closed;
    protect(closed ? PROT_NONE : PROT_READ | PROT_WRITE);
  }
  void enter_kernel() {
    ++kernel_calls;
    if (closed_) protect(PROT_READ | PROT_WRITE);
  }
  void leave_kernel() {
    if (closed_) protect(PROT_NONE);
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{64} << 20;
  void protect(int how) {
    if (mprotect(base_, kBytes, how) != 0) throw std::bad_alloc();
  }

  void* base_;
  std::size_t used_ = 0;
  bool closed_ = false;
};

Arena& arena() {
  thread_local Arena of_this_thread;
  return of_this_thread;
}

struct Access {
  Access() { arena().enter_kernel(); }
  ~Access() { arena().leave_kernel(); }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};

class GuardedKernels final : public kernels::Kernels {
 public:
  explicit GuardedKernels(DType dtype) : cpu_(kernels::cpu().kernels(dtype)) {}

  void clear(const kernels::StatisticsColumns& columns, std::int64_t channels) const override {
    const Access access;
    cpu_.clear(columns, channels);
  }
  void clear(const kernels::SumsColumns& columns, std::int64_t channels) const override {
    const Access access;
    cpu_.clear(columns, channels);
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
  std::optional<kernels::NonfiniteChannel> find_nonfinite(const kernels::ConstStatisticsColumns& saved,
                                                          std::int64_t channels) const override {
    const Access access;
    return cpu_.find_nonfinite(saved, channels);
  }
  void track(const kernels::RunningStatistics& running, const kernels::ConstStatisticsColumns& saved,
             std::int64_t channels, std::optional<double> momentum, bool skip_nonfinite) const override {
    const Access access;
    cpu_.track(running, saved, channels, momentum, skip_nonfinite);
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
  void affine_gradients(const kernels::Values& weight_grad, const kernels::Values& bias_grad, const double* a,
                        const double* b, const double* invstd, std::int64_t channels,
                        bool empty) const override {
    const Access access;
    cpu_.affine_gradients(weight_grad, bias_grad, a, b, invstd, channels, empty);
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
  void accumulate(const kernels::MatmulCall& call, std::span<std::int64_t> message) const override {
    const Access access;
    cpu_.accumulate(call, message);
  }
  void round(const kernels::MatmulCall& call, std::span<const std::int64_t> message) const override {
    const Access access;
    cpu_.round(call, message);
  }

 private:
  const kernels::Kernels& cpu_;
};

// Memory of this thread's arena, which frees all at once.
constexpr ColumnMemory kMemory{
    [](std::size_t size) { return static_cast<double*>(arena().allocate(size * sizeof(double))); },
    [](double*) noexcept {}};

constexpr kernels::Device kGuarded{"guarded", kMemory, [](DType dtype) -> const kernels::Kernels& {
                                     static const GuardedKernels all[] = {
                                         GuardedKernels(DType::float16), GuardedKernels(DType::bfloat16),
                                         GuardedKernels(DType::float32), GuardedKernels(DType::float64)};
                                     return all[static_cast<std::size_t>(dtype) % 4];
                                   }};

}  // namespace

GuardedDevice::GuardedDevice() { kernels::device() = &kGuarded; }
GuardedDevice::~GuardedDevice() { kernels::device() = &kernels::cpu(); }
bool GuardedDevice::in_use() { return kernels::device() == &kGuarded; }

void* GuardedDevice::allocate(std::size_t bytes, std::byte byte) {
  void* memory = arena().allocate(bytes);
  std::memset(memory, static_cast<int>(byte), bytes);
  return memory;
}

void GuardedDevice::take(SyncBatchNorm& layer) {
  std::vector<StateEntry> entries = layer.state();
  for (StateEntry& gradient : layer.gradients()) entries.push_back(std::move(gradient));
  for (const StateEntry& entry : entries) {
    const std::size_t bytes = entry.size * (entry.dtype ? size_of(*entry.dtype) : sizeof(std::int64_t));
    void* memory = allocate(bytes, std::byte{});
    std::memcpy(memory, entry.data, bytes);
    FrameworkHooks(layer).bind(entry.name, memory);
  }
}

void GuardedDevice::close() { arena().set_closed(true); }
void GuardedDevice::open() { arena().set_closed(false); }
long GuardedDevice::calls() { return kernel_calls; }

}  // namespace syncbn::testing
