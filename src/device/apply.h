// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/geometry.h"
#include "exact/finish.h"

/// Kernels from coefficients to y, or to dx and d_residual. They round in the order of
/// kernels/reference.h.
namespace syncbn::device {

inline constexpr unsigned kApplyThreads = 256;

/// The packs of a tensor and the channels that they belong to.
struct ApplyGeometry {
  std::int64_t packs;     ///< Number of packs in the tensor.
  std::int64_t channels;  ///< Number of channels.
  /// Channels-first: by the packs of a channel in one sample. Channels-last: by the packs of a position.
  Division row;
  Division channels_division;  ///< By `channels`.
};

template <class Storage>
struct Normalize {
  const Storage *x, *residual;  ///< residual may be null.
  Storage* y;
  exact::ForwardCoefficients<kernels::Compute<Storage>*> columns;
  bool relu;
};
template <class Storage>
struct Differentiate {
  const Storage *dy, *x, *y;  ///< y is null without ReLU.
  Storage *dx, *d_residual;   ///< May be null; dx may be dy.
  exact::BackwardCoefficients<kernels::Compute<Storage>*> columns;
  bool of_batch;
};

/// Calls body(offset of the pack, channel of its element k) for this thread's packs.
template <int kWide, bool kLast, class Body>
SYNCBN_SIMT void for_each_pack(const ApplyGeometry& g, const Body& body) {
  constexpr std::int64_t kTogether = 4 * kApplyThreads;  // packs of a block in one turn
  const simt::Place place = simt::here();
  const std::int64_t turns = (g.packs + kTogether - 1) / kTogether;
  for (std::int64_t turn = place.block; turn < turns; turn += place.blocks) {
    const std::int64_t first = turn * kTogether, row = first / g.row.divisor, at = first % g.row.divisor;
    const std::int64_t row_channel = kLast ? 0 : row % g.channels;
    SYNCBN_UNROLL
    for (unsigned v = 0; v < 4; ++v) {
      const std::int64_t ahead = v * kApplyThreads + place.thread;
      if (first + ahead >= g.packs) break;
      const std::int64_t rows = g.row.quotient(at + ahead);
      std::int64_t channel = 0;
      if constexpr (kLast) {
        channel = (at + ahead - rows * g.row.divisor) * kWide;
      } else {
        channel = row_channel + rows;
        channel -= g.channels_division.quotient(channel) * g.channels;
      }
      body((first + ahead) * kWide, channel);
    }
  }
}

template <class Storage, int kWide, bool kLast>
SYNCBN_KERNEL void normalize(Normalize<Storage> t, ApplyGeometry g) {
  using T = kernels::Compute<Storage>;
  for_each_pack<kWide, kLast>(g, [&](std::int64_t offset, std::int64_t channel) {
    const auto x = simt::load<kWide>(t.x + offset);
    simt::Pack<Storage, kWide> residual = x, y;
    if (t.residual != nullptr) residual = simt::load<kWide>(t.residual + offset);
    SYNCBN_UNROLL
    for (int k = 0; k < kWide; ++k) {
      const std::int64_t j = kLast ? channel + k : channel;
      const T centred = simt::add(kernels::widen(x.values[k]), -t.columns.mean_hi[j]);
      T value = simt::fma(centred, t.columns.k[j], t.columns.shift[j]);
      if (t.residual != nullptr) value = simt::add(value, kernels::widen(residual.values[k]));
      if (t.relu) value = kernels::passes(value) ? value : T{0};
      y.values[k] = simt::narrow<Storage>(value);
    }
    simt::store(t.y + offset, y);
  });
}

template <class Storage, int kWide, bool kLast>
SYNCBN_KERNEL void differentiate(Differentiate<Storage> t, ApplyGeometry g) {
  using T = kernels::Compute<Storage>;
  for_each_pack<kWide, kLast>(g, [&](std::int64_t offset, std::int64_t channel) {
    const auto dy = simt::load<kWide>(t.dy + offset);
    simt::Pack<Storage, kWide> y = dy, x = dy, dx = dy, d_residual = dy;
    if (t.y != nullptr) y = simt::load<kWide>(t.y + offset);
    if (t.of_batch && t.dx != nullptr) x = simt::load<kWide>(t.x + offset);
    SYNCBN_UNROLL
    for (int k = 0; k < kWide; ++k) {
      const std::int64_t j = kLast ? channel + k : channel;
      const bool open = t.y == nullptr || kernels::passes(kernels::widen(y.values[k]));
      const T masked = open ? kernels::widen(dy.values[k]) : T{0};
      d_residual.values[k] = simt::narrow<Storage>(masked);
      if (t.of_batch) {
        const T centred = simt::add(kernels::widen(x.values[k]), -t.columns.mean_hi[j]);
        const T inner = simt::fma(t.columns.c2[j], centred, t.columns.c1[j]);
        dx.values[k] = simt::narrow<Storage>(simt::fma(t.columns.k[j], masked, inner));
      } else {
        dx.values[k] = simt::narrow<Storage>(simt::multiply(t.columns.k[j], masked));
      }
    }
    if (t.d_residual != nullptr) simt::store(t.d_residual + offset, d_residual);
    if (t.dx != nullptr) simt::store(t.dx + offset, dx);
  });
}

}  // namespace syncbn::device
