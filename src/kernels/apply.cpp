#include "kernels/apply.h"

#include <algorithm>
#include <type_traits>

#include "kernels/apply_segment.h"
#include "kernels/convert.h"
#include "kernels/isa.h"
#include "kernels/parallel_for.h"
#include "kernels/reference.h"

namespace syncbn::kernels {
namespace {

constexpr std::size_t kTile = 1024;

template <class Storage>
const Storage* at(const Storage* data, std::size_t i) {
  return data == nullptr ? nullptr : data + i;
}
template <class Storage>
Storage* at(Storage* data, std::size_t i) {
  return data == nullptr ? nullptr : data + i;
}

// A tile of floats that holds `n` elements of 16-bit storage; null stays null.
template <class Storage>
const float* widened(const Storage* data, std::size_t n, float* tile) {
  if (data == nullptr) return nullptr;
  for (std::size_t i = 0; i < n; ++i) tile[i] = widen(data[i]);
  return tile;
}
template <class Storage>
void narrowed(const float* tile, std::size_t n, Storage* data) {
  if (data == nullptr) return;
  for (std::size_t i = 0; i < n; ++i) data[i] = narrow<Storage>(tile[i]);
}

template <class Storage>
void normalize_run(const Storage* x, const Storage* residual, Storage* y, std::size_t n,
                   const NormalizeSegment<Compute<Storage>>& c) {
  if constexpr (std::is_same_v<Storage, double>) {
    reference::normalize(x, residual, y, n, c);
  } else if (use_reference()) {
    reference::normalize(x, residual, y, n, c);
  } else if constexpr (std::is_same_v<Storage, float>) {
    normalize_segment(x, residual, y, n, c);
  } else {
    alignas(64) float x_tile[kTile], residual_tile[kTile], y_tile[kTile];
    for (std::size_t i = 0; i < n; i += kTile) {
      const std::size_t m = std::min(kTile, n - i);
      const std::size_t j = c.per_element ? i : 0;
      normalize_segment(widened(x + i, m, x_tile), widened(at(residual, i), m, residual_tile), y_tile, m,
                        {c.mean_hi + j, c.k + j, c.shift + j, c.per_element, c.relu});
      narrowed(y_tile, m, y + i);
    }
  }
}

template <class Storage>
void differentiate_run(const Storage* dy, const Storage* x, const Storage* y, Storage* dx,
                       Storage* d_residual, std::size_t n, const GradientSegment<Compute<Storage>>& c) {
  if constexpr (std::is_same_v<Storage, double>) {
    reference::differentiate(dy, x, y, dx, d_residual, n, c);
  } else if (use_reference()) {
    reference::differentiate(dy, x, y, dx, d_residual, n, c);
  } else if constexpr (std::is_same_v<Storage, float>) {
    differentiate_segment(dy, x, y, dx, d_residual, n, c);
  } else {
    alignas(64) float dy_tile[kTile], x_tile[kTile], y_tile[kTile], dx_tile[kTile], d_residual_tile[kTile];
    for (std::size_t i = 0; i < n; i += kTile) {
      const std::size_t m = std::min(kTile, n - i);
      const std::size_t j = c.per_element ? i : 0;
      differentiate_segment(widened(dy + i, m, dy_tile), widened(x + i, m, x_tile),
                            widened(at(y, i), m, y_tile), dx == nullptr ? nullptr : dx_tile,
                            d_residual == nullptr ? nullptr : d_residual_tile, m,
                            {c.mean_hi + j, c.k + j, c.c2 + j, c.c1 + j, c.per_element, c.of_batch});
      narrowed(dx_tile, m, at(dx, i));
      narrowed(d_residual_tile, m, at(d_residual, i));
    }
  }
}

// Calls run(first element, count, first channel, per_element) for runs of memory that share their
// coefficients or, in channels-last, go through the channels once.
template <class Run>
void for_each_run(const Geometry& g, const Run& run) {
  constexpr std::int64_t kTaskElements = 16384;  // some 10 µs of work
  const bool last = g.layout == Layout::channels_last;
  const std::int64_t length = last ? g.channels : g.spatial;
  const std::int64_t elements = g.elements();
  const std::int64_t tasks = std::clamp<std::int64_t>(elements / kTaskElements, 1, 1024);
  parallel_for(static_cast<int>(tasks), [&](int task) {
    const std::int64_t end = elements * (task + 1) / tasks;
    for (std::int64_t i = elements * task / tasks; i < end;) {
      const std::int64_t place = i % length;
      const std::int64_t count = std::min(length - place, end - i);
      run(i, static_cast<std::size_t>(count), last ? place : i / length % g.channels, last);
      i += count;
    }
  });
}

}  // namespace

void normalize(const void* x, const void* residual, void* y, const Geometry& geometry,
               const NormalizeCoefficients& c, bool relu) {
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    using T = Compute<Storage>;
    for_each_run(geometry, [&](std::int64_t first, std::size_t n, std::int64_t channel, bool per_element) {
      const auto i = static_cast<std::size_t>(first);
      normalize_run<Storage>(
          static_cast<const Storage*>(x) + i, at(static_cast<const Storage*>(residual), i),
          static_cast<Storage*>(y) + i, n,
          {static_cast<const T*>(c.mean_hi) + channel, static_cast<const T*>(c.k) + channel,
           static_cast<const T*>(c.shift) + channel, per_element, relu});
    });
  });
}

void differentiate(const void* dy, const void* x, const void* y, void* dx, void* d_residual,
                   const Geometry& geometry, const GradientCoefficients& c) {
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    using T = Compute<Storage>;
    for_each_run(geometry, [&](std::int64_t first, std::size_t n, std::int64_t channel, bool per_element) {
      const auto i = static_cast<std::size_t>(first);
      differentiate_run<Storage>(static_cast<const Storage*>(dy) + i, static_cast<const Storage*>(x) + i,
                                 at(static_cast<const Storage*>(y), i), at(static_cast<Storage*>(dx), i),
                                 at(static_cast<Storage*>(d_residual), i), n,
                                 {static_cast<const T*>(c.mean_hi) + channel,
                                  static_cast<const T*>(c.k) + channel, static_cast<const T*>(c.c2) + channel,
                                  static_cast<const T*>(c.c1) + channel, per_element, c.of_batch});
    });
  });
}

}  // namespace syncbn::kernels
