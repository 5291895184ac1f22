// SPDX-License-Identifier: Apache-2.0
#include "device/device_kernels.h"

#include <fmt/format.h>

#include <array>
#include <new>
#include <utility>

#include "kernels/kernels.h"
#include "syncbn/error.h"
#include "syncbn/stream.h"

namespace syncbn::device {
namespace {

using kernels::BackwardCall;
using kernels::ForwardCall;
using kernels::is_of_batch;

// A device, in one of a few places: the functions that a DeviceEntry has know nothing but their place.
struct Slot {
  Device device;
  const Api* api = nullptr;
  int index = 0;
};
constexpr std::size_t kSlots = 16;
std::array<Slot, kSlots> slots;

thread_local void* current_stream = nullptr;

void check(const Api& api, int code) {
  if (code != 0) throw Error(fmt::format("the device failed: {} (code {})", api.describe(code), code));
}

// Makes the slot's device the thread's while it lives, and then the one before again.
class OnDevice {
 public:
  explicit OnDevice(const Slot& slot) : slot_(slot) { check(*slot.api, slot.api->use(slot.index, &before_)); }
  ~OnDevice() {
    if (before_ != slot_.index) static_cast<void>(slot_.api->use(before_, &before_));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const Slot& slot_;
  int before_ = 0;
};

ValuesArgument argument(const kernels::Values& values) { return {values.data, values.dtype}; }

// Double backward and products of matrices have no kernels on a device.
[[noreturn]] void refuse(const Slot& slot, const char* what) {
  throw InvalidArgument(fmt::format("{}: not on device {}, expected tensors of the CPU", what,
                                    kernels::to_string(slot.device)));
}

class DeviceKernels final : public kernels::Kernels {
 public:
  DeviceKernels(const Slot& slot, DType dtype) : slot_(slot), dtype_(dtype) {}

  void clear(Saved& saved) const override { clear_columns(saved); }
  void clear(BackwardSums& sums) const override { clear_columns(sums); }
  void fill(const kernels::Values& values, std::int64_t channels, double value) const override {
    run(&Api::fill, argument(values), channels, value, current_stream);
  }

  void accumulate(const ForwardCall& call, exact::Records records) const override {
    download(call, accumulate(call, call.tensors.x, nullptr, nullptr, true), records);
  }
  void normalize(const ForwardCall& call, exact::ConstRecords records) const override {
    finish(call, upload(call, records));
    apply(call);
  }
  void normalize_alone(const ForwardCall& call) const override {
    finish(call, accumulate(call, call.tensors.x, nullptr, nullptr, false));
    apply(call);
  }
  void normalize_by(const ForwardCall& call, const kernels::RunningStatistics& running) const override {
    const FinishForwardArguments arguments = finish_arguments(call);
    run(&Api::finish_running, &arguments, argument(running.mean), argument(running.var), current_stream);
    apply(call);
  }

  std::optional<kernels::NonfiniteChannel> find_nonfinite(const Saved& saved) const override {
    const auto channels = static_cast<std::int64_t>(saved.mean.size());
    const DeviceMemory& memory = saved.mean.memory();
    DeviceBuffer word;
    word.resize(sizeof(std::int64_t), memory);
    std::int64_t first = channels;
    memory.copy(word.data(), &first, sizeof first);
    run(&Api::find_nonfinite, saved.mean.data(), saved.var_unbiased.data(), channels,
        static_cast<std::int64_t*>(word.data()), current_stream);
    memory.copy(&first, word.data(), sizeof first);
    if (first == channels) return std::nullopt;
    kernels::NonfiniteChannel found{first, 0, 0};
    memory.copy(&found.mean, saved.mean.data() + first, sizeof found.mean);
    memory.copy(&found.var, saved.var.data() + first, sizeof found.var);
    return found;
  }

  void track(const kernels::RunningStatistics& running, const Saved& saved, std::optional<double> momentum,
             bool skip_nonfinite) const override {
    const TrackArguments arguments{.mean = argument(running.mean),
                                   .var = argument(running.var),
                                   .batches = running.batches,
                                   .batch_mean = saved.mean.data(),
                                   .batch_var_unbiased = saved.var_unbiased.data(),
                                   .channels = static_cast<std::int64_t>(saved.mean.size()),
                                   .has_momentum = momentum.has_value(),
                                   .skip_nonfinite = skip_nonfinite,
                                   .momentum = momentum.value_or(0)};
    run(&Api::track, &arguments, current_stream);
  }

  void accumulate(const BackwardCall& call, exact::Records records) const override {
    std::int64_t* const own = accumulate(call, call.tensors.dy, call.tensors.x, call.tensors.y, true);
    if (call.geometry.positions() != 0) {
      FinishBackwardArguments arguments = sum_arguments(call);
      arguments.a = call.sums.own_a.data();
      arguments.b = call.sums.own_b.data();
      run(&Api::finish_backward, &arguments, own, current_stream);
    }
    download(call, own, records);
  }
  void differentiate(const BackwardCall& call, exact::ConstRecords records) const override {
    finish(call, upload(call, records), false);
    apply(call);
  }
  void differentiate_alone(const BackwardCall& call) const override {
    finish(call, accumulate(call, call.tensors.dy, call.tensors.x, call.tensors.y, false),
           call.geometry.positions() != 0);
    apply(call);
  }
  void affine_gradients(const kernels::Values& weight_grad, const kernels::Values& bias_grad, const Column& a,
                        const Column& b, const Column& invstd, bool empty) const override {
    if (!weight_grad) return;
    const AffineArguments arguments{.weight_grad = argument(weight_grad),
                                    .bias_grad = argument(bias_grad),
                                    .a = a.data(),
                                    .b = b.data(),
                                    .invstd = invstd.data(),
                                    .channels = static_cast<std::int64_t>(invstd.size()),
                                    .empty = empty};
    run(&Api::affine_gradients, &arguments, current_stream);
  }

  std::size_t double_backward_words(std::int64_t) const override { refuse(slot_, "double_backward"); }
  void accumulate(const kernels::DoubleBackwardCall&, std::span<std::int64_t>) const override {
    refuse(slot_, "double_backward");
  }
  void double_differentiate(const kernels::DoubleBackwardCall&,
                            std::span<const std::int64_t>) const override {
    refuse(slot_, "double_backward");
  }
  void accumulate(const kernels::MatmulCall&, std::span<std::int64_t>) const override {
    refuse(slot_, "all_reduce_matmul");
  }
  void round(const kernels::MatmulCall&, std::span<const std::int64_t>) const override {
    refuse(slot_, "all_reduce_matmul");
  }

 private:
  // Calls a function of the device.
  template <class... Parameters, class... Arguments>
  void run(int (*Api::*function)(Parameters...), const Arguments&... arguments) const {
    const OnDevice on(slot_);
    check(*slot_.api, (slot_.api->*function)(arguments...));
  }

  template <class Columns>
  void clear_columns(Columns& columns) const {
    for (const auto column : Columns::kColumns) {
      Column& one = columns.*column;
      if (!one.empty()) run(&Api::clear, one.data(), one.size() * sizeof(double), current_stream);
    }
  }

  static Shape shape_of(const kernels::Geometry& g) {
    return {g.dtype, g.layout, g.samples, g.channels, g.spatial};
  }
  std::size_t record_words(std::int64_t channels) const {
    return static_cast<std::size_t>(channels * exact::sum_format(dtype_).words());
  }
  // Records of the call in the device's memory, and behind them a word a channel.
  template <class Call>
  std::int64_t* records_of(const Call& call) const {
    const exact::SumFormat& format = exact::sum_format(dtype_);
    const std::int64_t channels = call.geometry.channels;
    const std::int64_t more = (channels + format.words() - 1) / format.words();
    return call.work.records(channels + more, format)[0].sum();
  }
  template <class Call>
  std::int64_t* accumulate(const Call& call, const void* a, const void* b, const void* mask,
                           bool for_wire) const {
    std::int64_t* const records = records_of(call);
    run(&Api::clear, records, record_words(call.geometry.channels) * sizeof *records, current_stream);
    const AccumulateArguments arguments{shape_of(call.geometry), a, b, mask, records, for_wire};
    run(&Api::accumulate, &arguments, current_stream);
    return records;
  }
  template <class Call>
  void download(const Call& call, const std::int64_t* from, exact::Records to) const {
    run(&Api::copy, to[0].sum(), from, record_words(call.geometry.channels) * sizeof *from, current_stream);
  }
  template <class Call>
  std::int64_t* upload(const Call& call, exact::ConstRecords from) const {
    std::int64_t* const to = records_of(call);
    run(&Api::copy, to, from[0].sum(), record_words(call.geometry.channels) * sizeof *to, current_stream);
    return to;
  }

  // The columns hold elements of the compute type.
  template <class Call>
  void* column(const Call& call, int i) const {
    if (dtype_ == DType::float64) return call.work.template column<double>(i);
    return call.work.template column<float>(i);
  }

  FinishForwardArguments finish_arguments(const ForwardCall& call) const {
    Saved& saved = call.saved;
    return {.dtype = dtype_,
            .channels = call.geometry.channels,
            .count = saved.count,
            .eps = call.eps,
            .weight = argument(call.weight),
            .bias = argument(call.bias),
            .saved = {saved.mean.data(), saved.var.data(), saved.invstd.data(), saved.var_unbiased.data(),
                      saved.scale.data()},
            .mean_hi = column(call, 0),
            .k = column(call, 1),
            .shift = column(call, 2)};
  }
  void finish(const ForwardCall& call, std::int64_t* records) const {
    const FinishForwardArguments arguments = finish_arguments(call);
    run(&Api::finish_forward, &arguments, records, current_stream);
  }
  void apply(const ForwardCall& call) const {
    const NormalizeArguments arguments{.shape = shape_of(call.geometry),
                                       .x = call.tensors.x,
                                       .residual = call.tensors.residual,
                                       .y = call.tensors.y,
                                       .mean_hi = column(call, 0),
                                       .k = column(call, 1),
                                       .shift = column(call, 2),
                                       .relu = call.relu};
    run(&Api::normalize, &arguments, current_stream);
  }

  // Sums alone: to `a` and `b`, which the caller sets.
  FinishBackwardArguments sum_arguments(const BackwardCall& call) const {
    FinishBackwardArguments arguments{};
    arguments.dtype = dtype_;
    arguments.channels = call.geometry.channels;
    arguments.count = call.saved.count;
    arguments.of_batch = is_of_batch(call.saved);
    arguments.mean = call.saved.mean.data();
    arguments.invstd = call.saved.invstd.data();
    arguments.scale = call.saved.scale.data();
    return arguments;
  }
  void finish(const BackwardCall& call, std::int64_t* records, bool own) const {
    FinishBackwardArguments arguments = sum_arguments(call);
    arguments.a = call.sums.a.data();
    arguments.b = call.sums.b.data();
    arguments.own_a = own ? call.sums.own_a.data() : nullptr;
    arguments.own_b = own ? call.sums.own_b.data() : nullptr;
    arguments.mean_hi = column(call, 0);
    arguments.k = column(call, 1);
    arguments.c2 = column(call, 2);
    arguments.c1 = column(call, 3);
    run(&Api::finish_backward, &arguments, records, current_stream);
  }
  void apply(const BackwardCall& call) const {
    if (call.tensors.dx == nullptr && call.tensors.d_residual == nullptr) return;
    const DifferentiateArguments arguments{.shape = shape_of(call.geometry),
                                           .dy = call.tensors.dy,
                                           .x = call.tensors.x,
                                           .y = call.tensors.y,
                                           .dx = call.tensors.dx,
                                           .d_residual = call.tensors.d_residual,
                                           .mean_hi = column(call, 0),
                                           .k = column(call, 1),
                                           .c2 = column(call, 2),
                                           .c1 = column(call, 3),
                                           .of_batch = is_of_batch(call.saved)};
    run(&Api::differentiate, &arguments, current_stream);
  }

  const Slot& slot_;
  const DType dtype_;
};

template <std::size_t kSlot>
constexpr DeviceMemory kMemory{
    [](std::size_t bytes) {
      void* memory = nullptr;
      const Slot& slot = slots[kSlot];
      const OnDevice on(slot);
      if (slot.api->allocate(bytes, &memory) != 0) throw std::bad_alloc();
      return memory;
    },
    [](void* memory) noexcept { static_cast<void>(slots[kSlot].api->release(memory)); },
    [](void* to, const void* from, std::size_t bytes) {
      const Api& api = *slots[kSlot].api;
      const OnDevice on(slots[kSlot]);
      check(api, api.copy(to, from, bytes, current_stream));
    }};

template <std::size_t kSlot>
const kernels::Kernels& kernels_of(DType dtype) {
  static const DeviceKernels all[] = {{slots[kSlot], DType::float16},
                                      {slots[kSlot], DType::bfloat16},
                                      {slots[kSlot], DType::float32},
                                      {slots[kSlot], DType::float64}};
  return all[static_cast<std::size_t>(dtype) % std::size(all)];
}

// Entries that know their name from add().
template <std::size_t... kSlot>
kernels::DeviceEntry entry_of(std::size_t slot, const char* name, std::index_sequence<kSlot...>) {
  constexpr const DeviceMemory* memories[] = {&kMemory<kSlot>...};
  constexpr const kernels::Kernels& (*all[])(DType) = {&kernels_of<kSlot>...};
  return {name, *memories[slot], all[slot]};
}

}  // namespace

void add(Device device, const char* name, const Api& api, int index) {
  static std::size_t used = 0;
  if (used == kSlots)
    throw InvalidArgument(fmt::format("device: {} of {}, expected at most {} devices", index, name, kSlots));
  slots[used] = {device, &api, index};
  static std::array<std::optional<kernels::DeviceEntry>, kSlots> entries;
  entries[used].emplace(entry_of(used, name, std::make_index_sequence<kSlots>()));
  kernels::add_device(device, *entries[used]);
  ++used;
}

}  // namespace syncbn::device

namespace syncbn {

OnStream::OnStream(void* stream) : before_(std::exchange(device::current_stream, stream)) {}
OnStream::~OnStream() { device::current_stream = before_; }

}  // namespace syncbn
