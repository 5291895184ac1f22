// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>

#include "exact/finish.h"
#include "kernels/convert.h"
#include "syncbn/dtype.h"
#include "syncbn/tensor.h"

/// What the kernels are given: places of tensors in memory, operands, coefficients.
namespace syncbn::kernels {

/// Memory order and sizes of the tensors of one call, which are all alike.
struct Geometry {
  DType dtype;
  Layout layout;  ///< If spatial == 1 both are the same memory: channels_last then.
  std::int64_t samples;
  std::int64_t channels;
  std::int64_t spatial;

  std::int64_t positions() const { return samples * spatial; }  ///< Elements per channel.
  std::int64_t elements() const { return positions() * channels; }
  /// Element of `channel` at `position` = sample · spatial + place.
  std::int64_t offset(std::int64_t channel, std::int64_t position) const {
    if (layout == Layout::channels_last) return position * channels + channel;
    return (position / spatial * channels + channel) * spatial + position % spatial;
  }
};

/// Work of one task: some channels at some positions.
struct Part {
  std::int64_t channel, channels;
  std::int64_t begin, end;  ///< Positions.
};
inline Part whole(const Geometry& g) { return {0, g.channels, 0, g.positions()}; }

/// Work for some µs, in elements. A smaller task is not worth waking a thread.
inline constexpr std::int64_t kTaskElements = 16384;

/// Number of neighbouring rows of a part (channels-last) that together are whole vectors of every instruction
/// set, in which each element keeps its channel. 1 if folding does not pay.
inline constexpr std::int64_t kFoldedRow = 256;  // elements of the longest folded row
inline std::int64_t rows_in_one(const Geometry& g, const Part& part) {
  constexpr std::int64_t kWholeVectors = 32, kPositions = 512;
  if (g.layout != Layout::channels_last || part.channels != g.channels || part.end - part.begin < kPositions)
    return 1;
  const std::int64_t rows = kWholeVectors / std::gcd(kWholeVectors, g.channels);
  return rows * g.channels <= kFoldedRow ? rows : 1;
}

/// A tensor to sum. Under a ReLU mask an element counts as +0 unless the mask's element is positive or NaN.
struct Operand {
  const void* values;
  const void* mask = nullptr;  ///< y of the forward call, or null.
};
/// Use of the records: the wire needs digits, this rank's own finish takes either form.
enum class Use : std::uint8_t { wire, finish };

struct NormalizeTensors {
  const void *x, *residual;  ///< residual may be null.
  void* y;
};
struct GradientTensors {
  const void *dy, *x, *y;  ///< y, the forward's output, is null without ReLU.
  void *dx, *d_residual;   ///< May be null; dx may be dy.
};

/// Columns of (C,) coefficients in the compute type T: from finish to the loops.
template <class T>
using ForwardColumns = exact::ForwardCoefficients<T*>;
template <class T>
using BackwardColumns = exact::BackwardCoefficients<T*>;

/// How results reach memory. Streaming writes bypass the caches: nothing is read before it is overwritten,
/// and nothing else is driven out.
enum class Write { cached, streaming };

/// Some rows of memory, each `stride` elements after the one before.
struct Extent {
  std::size_t rows, n, stride;
  bool per_element;   ///< A coefficient for each element, alike in all rows (channels-last), or for each row.
  std::size_t ahead;  ///< Prefetch distance for the inputs, in elements.
  std::size_t residual_ahead =
      0;  ///< Prefetch distance for the residual, which no sum reads (channels-first).
  std::size_t written_ahead =
      0;  ///< Prefetch distance for cached writes; 0: the hardware's prefetcher is enough.
};
template <class Storage>
struct NormalizeRows {
  const Storage *x, *residual;  ///< residual may be null.
  Storage* y;
  Extent extent;
  bool relu;
};
template <class Storage>
struct GradientRows {
  const Storage *dy, *x, *y;  ///< y is null without ReLU.
  Storage *dx, *d_residual;   ///< May be null; dx may be dy.
  Extent extent;
  bool of_batch;  ///< The statistics were those of the batch that dx belongs to.
};

}  // namespace syncbn::kernels
