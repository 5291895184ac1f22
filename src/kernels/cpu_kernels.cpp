// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>
#include <vector>

#include "exact/finish.h"
#include "kernels/apply.h"
#include "kernels/double_backward.h"
#include "kernels/kernels.h"
#include "kernels/loops.h"
#include "kernels/matmul.h"
#include "kernels/plan.h"

namespace syncbn::kernels {
namespace {

bool is_finite(const Saved& saved, std::int64_t channel) {
  return std::isfinite(saved.mean[channel]) && std::isfinite(saved.var_unbiased[channel]);
}

// What depends on no dtype of elements.
class CpuColumns : public Kernels {
 public:
  void clear(Saved& saved) const final {
    for (const auto column : Saved::kColumns) std::ranges::fill(saved.*column, 0.0);
  }
  void clear(BackwardSums& sums) const final {
    for (const auto column : BackwardSums::kColumns) std::ranges::fill(sums.*column, 0.0);
  }

  void fill(const Values& values, std::int64_t channels, double value) const final {
    values.update(channels, [&](std::int64_t, double) { return value; });
  }

  std::optional<NonfiniteChannel> find_nonfinite(const Saved& saved) const final {
    for (std::int64_t c = 0; c < std::ssize(saved.mean); ++c) {
      if (!is_finite(saved, c)) return NonfiniteChannel{c, saved.mean[c], saved.var[c]};
    }
    return std::nullopt;
  }

  // Serial: a host program's thread pool could fail in the middle.
  void track(const RunningStatistics& running, const Saved& saved, std::optional<double> momentum,
             bool skip_nonfinite) const final {
    const std::int64_t batches = *running.batches + 1;
    const double factor = momentum ? *momentum : 1 / static_cast<double>(batches);
    const auto move = [&](const Values& values, const Column& batch) {
      values.update(std::ssize(batch), [&](std::int64_t c, double old) {
        if (skip_nonfinite && !is_finite(saved, c)) return old;
        return exact::running_update(old, batch[c], factor);
      });
    };
    move(running.mean, saved.mean);
    move(running.var, saved.var_unbiased);
    *running.batches = batches;
  }

  void affine_gradients(const Values& weight_grad, const Values& bias_grad, const Column& a, const Column& b,
                        const Column& invstd, bool empty) const final {
    const std::int64_t channels = std::ssize(invstd);
    if (weight_grad) {
      weight_grad.update(channels, [&](std::int64_t c, double) { return empty ? 0.0 : b[c] * invstd[c]; });
    }
    if (bias_grad) bias_grad.update(channels, [&](std::int64_t c, double) { return a[c]; });
  }
};

template <class Storage>
class CpuKernels final : public CpuColumns {
  using T = Compute<Storage>;

 public:
  using Kernels::accumulate;

  void accumulate(const ForwardCall& call, exact::Records records) const override {
    const Operand x{call.tensors.x};
    kernels::accumulate(loops<Storage>().accumulate, x, x, call.geometry, records, Use::wire);
  }

  void normalize(const ForwardCall& call, exact::ConstRecords records) const override {
    apply(call, [&](std::int64_t first, std::int64_t channels) {
      set_statistics(call, first, channels, records.from(first));
    });
  }

  void normalize_alone(const ForwardCall& call) const override {
    const Operand x{call.tensors.x};
    const ForwardColumns<T> columns = forward_columns(call.work);
    accumulate_alone(
        call, x, x, [&](exact::ConstRecords records) { normalize(call, records); },
        [&](const Part& part, exact::ConstRecords records, Write write) {
          set_statistics(call, part.channel, part.channels, records);
          set_coefficients(call, part.channel, part.channels, columns);
          kernels::normalize(loops<Storage>().apply, call.tensors, call.geometry, part, columns, call.relu,
                             write);
        });
  }

  void normalize_by(const ForwardCall& call, const RunningStatistics& running) const override {
    Saved& made = call.saved;
    apply(call, [&](std::int64_t first, std::int64_t channels) {
      for (std::int64_t c = first; c < first + channels; ++c) {
        made.mean[c] = running.mean[c];
        made.var[c] = running.var[c];
        made.invstd[c] = exact::inverse_std(made.var[c], call.eps);
        made.var_unbiased[c] = 0;
      }
    });
  }

  void accumulate(const BackwardCall& call, exact::Records records) const override {
    const Geometry& g = call.geometry;
    kernels::accumulate(loops<Storage>().accumulate, {call.tensors.dy, call.tensors.y}, {call.tensors.x}, g,
                        records, Use::finish);
    for_each_channels(g.channels, [&](std::int64_t first, std::int64_t channels) {
      const exact::Records own = records.from(first);
      if (g.positions() != 0) set_sums(call, first, channels, own, call.sums.own_a, call.sums.own_b);
      for (std::int64_t c = 0; c < channels; ++c) own[c].expand();
    });
  }

  void differentiate(const BackwardCall& call, exact::ConstRecords records) const override {
    const BackwardColumns<T> columns = backward_columns(call.work);
    for_each_channels(call.geometry.channels, [&](std::int64_t first, std::int64_t channels) {
      set_coefficients(call, first, channels, records.from(first), columns);
    });
    kernels::differentiate(loops<Storage>().apply, call.tensors, call.geometry, columns,
                           is_of_batch(call.saved));
  }

  void differentiate_alone(const BackwardCall& call) const override {
    const BackwardColumns<T> columns = backward_columns(call.work);
    accumulate_alone(
        call, {call.tensors.dy, call.tensors.y}, {call.tensors.x},
        [&](exact::ConstRecords records) { differentiate(call, records); },
        [&](const Part& part, exact::ConstRecords records, Write write) {
          set_coefficients(call, part.channel, part.channels, records, columns);
          kernels::differentiate(loops<Storage>().apply, call.tensors, call.geometry, part, columns,
                                 is_of_batch(call.saved), write);
        });
    if (call.geometry.positions() == 0) return;
    std::ranges::copy(call.sums.a, call.sums.own_a.begin());
    std::ranges::copy(call.sums.b, call.sums.own_b.begin());
  }

  std::size_t double_backward_words(std::int64_t channels) const override {
    return double_backward::words(channels, dtype_of<Storage>);
  }
  void accumulate(const DoubleBackwardCall& call, std::span<std::int64_t> message) const override {
    double_backward::accumulate(loops<Storage>().accumulate, call, message);
  }
  void double_differentiate(const DoubleBackwardCall& call,
                            std::span<const std::int64_t> message) const override {
    double_backward::differentiate(call, message);
  }

  void accumulate(const MatmulCall& call, std::span<std::int64_t> message) const override {
    matmul::accumulate(loops<Storage>().accumulate, call, message);
  }
  void round(const MatmulCall& call, std::span<const std::int64_t> message) const override {
    matmul::round(call, message);
  }

 private:
  static ForwardColumns<T> forward_columns(Workspace& work) {
    return {work.column<T>(0), work.column<T>(1), work.column<T>(2)};
  }
  static BackwardColumns<T> backward_columns(Workspace& work) {
    return {work.column<T>(0), work.column<T>(1), work.column<T>(2), work.column<T>(3)};
  }

  // Sums the terms of this rank, then calls all(records), or some(part, records, write) for blocks of
  // channels.
  template <class Call, class All, class Some>
  static void accumulate_alone(const Call& call, const Operand& a, const Operand& b, const All& all,
                               const Some& some) {
    const Geometry& g = call.geometry;
    const int tensors = 1 + (a.values != b.values) + (a.mask != nullptr);
    const Plan plan = make_plan(g, tensors);
    const AccumulatePart accumulate_part = loops<Storage>().accumulate;
    if (plan.way == Plan::Way::whole) {
      const exact::Records records = call.work.records(g.channels, exact::sum_format(g.dtype));
      kernels::accumulate(accumulate_part, a, b, g, records, Use::finish);
      return all(records);
    }
    const Write write = write_for(g, plan.block_channels);
    for_each_block(g, plan, [&](const Part& part, exact::Records records) {
      accumulate_part(a, b, g, part, records);
      some(part, records, write);
    });
  }

  // y of all channels; set_mean_and_invstd(first channel, channels) sets the statistics before.
  template <class Body>
  static void apply(const ForwardCall& call, const Body& set_mean_and_invstd) {
    const ForwardColumns<T> columns = forward_columns(call.work);
    for_each_channels(call.geometry.channels, [&](std::int64_t first, std::int64_t channels) {
      set_mean_and_invstd(first, channels);
      set_coefficients(call, first, channels, columns);
    });
    kernels::normalize(loops<Storage>().apply, call.tensors, call.geometry, columns, call.relu);
  }

  // `records`: from the first channel on, as in all that follows.
  static void set_statistics(const ForwardCall& call, std::int64_t first, std::int64_t channels,
                             exact::ConstRecords records) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const exact::Statistics s = exact::statistics(records[c], call.saved.count, call.eps);
      call.saved.mean[first + c] = s.mean;
      call.saved.var[first + c] = s.var;
      call.saved.invstd[first + c] = s.invstd;
      call.saved.var_unbiased[first + c] = s.var_unbiased;
    }
  }

  static void set_coefficients(const ForwardCall& call, std::int64_t first, std::int64_t channels,
                               const ForwardColumns<T>& to) {
    const std::int64_t end = first + channels;
    double* scale = call.saved.scale.data();
    const double* mean = call.saved.mean.data();
    std::copy(call.saved.invstd.data() + first, call.saved.invstd.data() + end, scale + first);
    call.weight.for_each(first, end, [&](std::int64_t c, double weight) { scale[c] = weight * scale[c]; });
    const auto set = [&](std::int64_t c, double bias) {
      const auto made = exact::forward_coefficients<T>(mean[c], scale[c], bias);
      to.mean_hi[c] = made.mean_hi;
      to.k[c] = made.k;
      to.shift[c] = made.shift;
    };
    if (call.bias) return call.bias.for_each(first, end, set);
    for (std::int64_t c = first; c < end; ++c) set(c, 0.0);
  }

  // fl64(A) and fl64(B − mean·A): each exact and rounded once.
  static void set_sums(const BackwardCall& call, std::int64_t first, std::int64_t channels,
                       exact::ConstRecords records, Column& a, Column& b) {
    for (std::int64_t c = 0; c < channels; ++c) {
      a[first + c] = exact::rounded_sum(records[c]);
      b[first + c] = exact::centred_product(records[c], call.saved.mean[first + c]);
    }
  }

  static void set_coefficients(const BackwardCall& call, std::int64_t first, std::int64_t channels,
                               exact::ConstRecords records, const BackwardColumns<T>& to) {
    set_sums(call, first, channels, records, call.sums.a, call.sums.b);
    const auto n = static_cast<double>(call.saved.count);
    for (std::int64_t c = first; c < first + channels; ++c) {
      exact::BackwardCoefficients<T> made{0, static_cast<T>(call.saved.scale[c]), 0, 0};
      if (is_of_batch(call.saved)) {
        made = exact::backward_coefficients<T>(call.saved.mean[c], call.saved.invstd[c], call.saved.scale[c],
                                               call.sums.a[c], call.sums.b[c], n);
      }
      to.mean_hi[c] = made.mean_hi;
      to.k[c] = made.k;
      to.c2[c] = made.c2;
      to.c1[c] = made.c1;
    }
  }
};

const Kernels& cpu_kernels(DType dtype) {
  return with_storage(dtype, [](auto* null) -> const Kernels& {
    static constexpr CpuKernels<std::remove_pointer_t<decltype(null)>> kKernels{};
    return kKernels;
  });
}
constexpr DeviceEntry kCpu{"cpu", kHostMemory, cpu_kernels};

// All devices that the library knows.
struct Devices {
  std::mutex mutex;
  std::vector<std::pair<Device, const DeviceEntry*>> known{{Device{}, &kCpu}};
};
Devices& devices() {
  static Devices all;
  return all;
}

}  // namespace

const DeviceEntry& cpu() { return kCpu; }

void add_device(Device device, const DeviceEntry& entry) {
  const std::lock_guard lock(devices().mutex);
  devices().known.emplace_back(device, &entry);
}

const DeviceEntry* find_device(Device device) {
  const std::lock_guard lock(devices().mutex);
  for (const auto& [known, entry] : devices().known) {
    if (known == device) return entry;
  }
  return nullptr;
}

std::string to_string(Device device) {
  std::string type =
      device.type == Device::Type::cuda ? "cuda" : fmt::format("type {}", static_cast<int>(device.type));
  const std::lock_guard lock(devices().mutex);
  for (const auto& [known, entry] : devices().known) {
    if (known.type == device.type) type = entry->name;
  }
  return fmt::format("{}:{}", type, device.index);
}

std::string known_devices() {
  std::string names;
  const std::lock_guard lock(devices().mutex);
  for (const auto& [known, entry] : devices().known)
    names += fmt::format("{}{}:{}", names.empty() ? "" : ", ", entry->name, known.index);
  return names;
}

}  // namespace syncbn::kernels
