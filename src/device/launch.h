// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "device/accumulate.h"
#include "device/api.h"
#include "device/apply.h"
#include "device/columns.h"
#include "device/finish.h"

/// The functions of Api that start kernels: which kernel, on which grid. One source for every runtime.
namespace syncbn::device {

/// Enough blocks to fill any GPU several times over.
inline constexpr std::int64_t kMostBlocks = 2048;
/// Slices of a channel, at most. Each adds less than 2^46 to a digit of a record.
inline constexpr std::int64_t kMostSlices = 1024;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t blocks_for(const Shape& shape, std::int64_t items) {
  return std::min(items, shape.most_blocks > 0 ? shape.most_blocks : kMostBlocks);
}
/// Slices of `size` packs or positions, for each of so many others: enough slices to fill the device, but
/// none shorter than `few`; and none longer than `many`, as long as kMostSlices allows.
inline Slices slices_of(const Shape& shape, std::int64_t size, std::int64_t others, std::int64_t few,
                        std::int64_t many) {
  const std::int64_t wanted = ceil_div(shape.most_blocks > 0 ? shape.most_blocks : kMostBlocks, others);
  const std::int64_t count =
      std::clamp(std::min(ceil_div(size, few), wanted), ceil_div(size, many), ceil_div(size, few));
  const std::int64_t length = ceil_div(size, std::min(count, kMostSlices));
  return {length, ceil_div(size, length)};
}

template <std::size_t kBytes>
bool are_aligned(std::initializer_list<const void*> all) {
  return std::ranges::all_of(
      all, [](const void* one) { return reinterpret_cast<std::uintptr_t>(one) % kBytes == 0; });
}
inline bool is_last(const Shape& shape) { return shape.layout == Layout::channels_last; }
inline std::int64_t positions_of(const Shape& shape) { return shape.samples * shape.spatial; }
inline Values values_of(const ValuesArgument& values) { return {values.data, values.dtype}; }

template <class Storage>
Operands<Storage> operands_of(const AccumulateArguments& call) {
  return {static_cast<const Storage*>(call.a), static_cast<const Storage*>(call.b),
          static_cast<const Storage*>(call.mask)};
}
template <class Storage, Terms kTerms, int kWide>
int accumulate_first(const AccumulateArguments& call, void* stream) {
  const Shape& shape = call.shape;
  const std::int64_t row = shape.spatial / kWide, packs = shape.samples * row;
  const Slices slices = slices_of(shape, packs, shape.channels, 4096 / kWide, (1 << 15) / kWide);
  return simt::launch(blocks_for(shape, shape.channels * slices.count), kAccumulateThreads, stream,
                      sum_channels_first<Storage, kTerms, kWide>, operands_of<Storage>(call),
                      ChannelsFirst{shape.channels, packs, division_by(row), slices}, call.records);
}
template <class Storage, Terms kTerms, int kWide>
int accumulate_last(const AccumulateArguments& call, void* stream) {
  const Shape& shape = call.shape;
  constexpr unsigned kMost = std::is_same_v<Storage, double> || kWide > 1 ? 16 : 32;
  unsigned columns = 1;
  while (columns < kMost && columns * kWide < static_cast<std::uint64_t>(shape.channels)) columns *= 2;
  const std::int64_t groups = ceil_div(shape.channels, columns * kWide);
  const std::int64_t few = 16 * kAccumulateThreads / columns;  // positions of a few tiles
  const Slices slices = slices_of(shape, positions_of(shape), groups, few, 1 << 14);
  return simt::launch(blocks_for(shape, groups * slices.count), kAccumulateThreads, stream,
                      sum_channels_last<Storage, kTerms, kWide>, operands_of<Storage>(call),
                      ChannelsLast{shape.channels, positions_of(shape), columns, slices}, call.records);
}

template <class Storage, Terms kTerms>
int accumulate_terms(const AccumulateArguments& call, void* stream) {
  const Shape& shape = call.shape;
  if constexpr (!std::is_same_v<Storage, double>) {
    // Channels-last: no more than 4 channels a thread, for its registers.
    constexpr int kFirst = 16 / sizeof(Storage), kLast = 4;
    if (is_last(shape)) {
      if (shape.channels % kLast == 0 && are_aligned<kLast * sizeof(Storage)>({call.a, call.b, call.mask}))
        return accumulate_last<Storage, kTerms, kLast>(call, stream);
    } else if (shape.spatial % kFirst == 0 && are_aligned<16>({call.a, call.b, call.mask})) {
      return accumulate_first<Storage, kTerms, kFirst>(call, stream);
    }
  }
  return is_last(shape) ? accumulate_last<Storage, kTerms, 1>(call, stream)
                        : accumulate_first<Storage, kTerms, 1>(call, stream);
}

/// Grid of kernels that take a channel a thread.
inline constexpr unsigned kChannelThreads = 64;
template <class... Parameters, class... Arguments>
int launch_channels(std::int64_t channels, void* stream, void (*kernel)(Parameters...),
                    const Arguments&... arguments) {
  return simt::launch(ceil_div(channels, kChannelThreads), kChannelThreads, stream, kernel, arguments...);
}

/// The records, and behind them a word a channel.
template <class Storage>
Records<Storage> records_of(std::int64_t* words, std::int64_t channels) {
  return {words, words + channels * kFormat<Storage>.words()};
}

template <class Storage>
int accumulate(const AccumulateArguments& call, void* stream) {
  if (positions_of(call.shape) != 0) {
    const int code = call.b == nullptr      ? accumulate_terms<Storage, Terms::squares>(call, stream)
                     : call.mask == nullptr ? accumulate_terms<Storage, Terms::pairs>(call, stream)
                                            : accumulate_terms<Storage, Terms::masked_pairs>(call, stream);
    if (code != 0) return code;
  }
  if (!call.for_wire) return 0;
  return launch_channels(call.shape.channels, stream, propagate_records<Storage>,
                         records_of<Storage>(call.records, call.shape.channels), call.shape.channels);
}

template <class T>
ForwardFinish<T> forward_finish(const FinishForwardArguments& call) {
  const ForwardColumnsArgument& saved = call.saved;
  return {call.channels,
          call.count,
          call.eps,
          values_of(call.weight),
          values_of(call.bias),
          {saved.mean, saved.var, saved.invstd, saved.var_unbiased, saved.scale},
          {static_cast<T*>(call.mean_hi), static_cast<T*>(call.k), static_cast<T*>(call.shift)}};
}
template <class Storage>
int finish_forward(const FinishForwardArguments& call, std::int64_t* words, void* stream) {
  const auto records = records_of<Storage>(words, call.channels);
  const auto finish = forward_finish<kernels::Compute<Storage>>(call);
  const int code = launch_channels(call.channels, stream, device::finish_forward<Storage>, records, finish);
  if (code != 0) return code;
  return simt::launch(ceil_div(call.channels, kWideThreads), kWideThreads, stream,
                      finish_forward_left<Storage>, records, finish);
}
template <class Storage>
int finish_running(const FinishForwardArguments& call, const ValuesArgument& mean, const ValuesArgument& var,
                   void* stream) {
  using T = kernels::Compute<Storage>;
  return launch_channels(call.channels, stream, device::finish_running<T>, forward_finish<T>(call),
                         RunningColumns{values_of(mean), values_of(var)});
}
template <class Storage>
int finish_backward(const FinishBackwardArguments& call, std::int64_t* words, void* stream) {
  using T = kernels::Compute<Storage>;
  const auto records = records_of<Storage>(words, call.channels);
  const BackwardFinish<T> finish{call.channels,
                                 call.count,
                                 call.of_batch,
                                 call.mean,
                                 call.invstd,
                                 call.scale,
                                 {call.mean, call.a, call.b, call.own_a, call.own_b},
                                 {static_cast<T*>(call.mean_hi), static_cast<T*>(call.k),
                                  static_cast<T*>(call.c2), static_cast<T*>(call.c1)}};
  const int code = launch_channels(call.channels, stream, device::finish_backward<Storage>, records, finish);
  if (code != 0) return code;
  return simt::launch(ceil_div(call.channels, kWideThreads), kWideThreads, stream,
                      finish_backward_left<Storage>, records, finish);
}

/// Calls kernel-starting body(wide, last) with the widest packs that the tensors allow.
template <class Storage, class Body>
int with_packs(const Shape& shape, std::initializer_list<const void*> tensors, const Body& body) {
  constexpr int kWide = 16 / sizeof(Storage);
  const std::int64_t run = is_last(shape) ? shape.channels : shape.spatial;
  const auto start = [&](auto wide) {
    const std::int64_t packs = positions_of(shape) * shape.channels / wide();
    const ApplyGeometry g{packs, shape.channels, division_by(run / wide()), division_by(shape.channels)};
    const std::int64_t blocks = blocks_for(shape, ceil_div(packs, 4 * kApplyThreads));
    if (packs == 0) return 0;
    return is_last(shape) ? body(wide, std::true_type{}, g, blocks)
                          : body(wide, std::false_type{}, g, blocks);
  };
  if (run % kWide == 0 && are_aligned<16>(tensors)) return start(std::integral_constant<int, kWide>{});
  return start(std::integral_constant<int, 1>{});
}
template <class Storage>
int normalize(const NormalizeArguments& call, void* stream) {
  using T = kernels::Compute<Storage>;
  const Normalize<Storage> tensors{
      static_cast<const Storage*>(call.x),
      static_cast<const Storage*>(call.residual),
      static_cast<Storage*>(call.y),
      {static_cast<T*>(call.mean_hi), static_cast<T*>(call.k), static_cast<T*>(call.shift)},
      call.relu};
  return with_packs<Storage>(call.shape, {call.x, call.residual, call.y},
                             [&](auto wide, auto last, const auto& g, auto blocks) {
                               return simt::launch(blocks, kApplyThreads, stream,
                                                   device::normalize<Storage, wide(), last()>, tensors, g);
                             });
}
template <class Storage>
int differentiate(const DifferentiateArguments& call, void* stream) {
  using T = kernels::Compute<Storage>;
  const Differentiate<Storage> tensors{static_cast<const Storage*>(call.dy),
                                       static_cast<const Storage*>(call.x),
                                       static_cast<const Storage*>(call.y),
                                       static_cast<Storage*>(call.dx),
                                       static_cast<Storage*>(call.d_residual),
                                       {static_cast<T*>(call.mean_hi), static_cast<T*>(call.k),
                                        static_cast<T*>(call.c2), static_cast<T*>(call.c1)},
                                       call.of_batch};
  return with_packs<Storage>(call.shape, {call.dy, call.x, call.y, call.dx, call.d_residual},
                             [&](auto wide, auto last, const auto& g, auto blocks) {
                               return simt::launch(blocks, kApplyThreads, stream,
                                                   device::differentiate<Storage, wide(), last()>, tensors,
                                                   g);
                             });
}

inline int track_call(const TrackArguments& call, void* stream) {
  const Track track{{values_of(call.mean), values_of(call.var)},
                    call.batches,
                    call.batch_mean,
                    call.batch_var_unbiased,
                    call.channels,
                    call.has_momentum,
                    call.skip_nonfinite,
                    call.momentum};
  const int code = launch_channels(call.channels, stream, device::track, track);
  if (code != 0) return code;
  return simt::launch(1, 1, stream, count_batch, call.batches);
}

/// Fills in the functions of a table that are alike on every runtime.
inline void set_kernels(Api& api) {
  api.version = kApiVersion;
  api.accumulate = [](const AccumulateArguments* call, void* stream) {
    return kernels::with_storage(call->shape.dtype,
                                 [&]<class Storage>(Storage*) { return accumulate<Storage>(*call, stream); });
  };
  api.finish_forward = [](const FinishForwardArguments* call, std::int64_t* records, void* stream) {
    return kernels::with_storage(call->dtype, [&]<class Storage>(Storage*) {
      return finish_forward<Storage>(*call, records, stream);
    });
  };
  api.finish_running = [](const FinishForwardArguments* call, ValuesArgument mean, ValuesArgument var,
                          void* stream) {
    return kernels::with_storage(call->dtype, [&]<class Storage>(Storage*) {
      return finish_running<Storage>(*call, mean, var, stream);
    });
  };
  api.finish_backward = [](const FinishBackwardArguments* call, std::int64_t* records, void* stream) {
    return kernels::with_storage(call->dtype, [&]<class Storage>(Storage*) {
      return finish_backward<Storage>(*call, records, stream);
    });
  };
  api.normalize = [](const NormalizeArguments* call, void* stream) {
    return kernels::with_storage(call->shape.dtype,
                                 [&]<class Storage>(Storage*) { return normalize<Storage>(*call, stream); });
  };
  api.differentiate = [](const DifferentiateArguments* call, void* stream) {
    return kernels::with_storage(
        call->shape.dtype, [&]<class Storage>(Storage*) { return differentiate<Storage>(*call, stream); });
  };
  api.track = [](const TrackArguments* call, void* stream) { return track_call(*call, stream); };
  api.affine_gradients = [](const AffineArguments* call, void* stream) {
    return launch_channels(call->channels, stream, device::affine_gradients,
                           AffineGradients{values_of(call->weight_grad), values_of(call->bias_grad), call->a,
                                           call->b, call->invstd, call->channels, call->empty});
  };
  api.fill = [](ValuesArgument values, std::int64_t channels, double value, void* stream) {
    return launch_channels(channels, stream, device::fill, values_of(values), channels, value);
  };
  api.find_nonfinite = [](const double* mean, const double* var_unbiased, std::int64_t channels,
                          std::int64_t* first, void* stream) {
    return launch_channels(channels, stream, device::find_nonfinite, mean, var_unbiased, channels, first);
  };
}

}  // namespace syncbn::device
