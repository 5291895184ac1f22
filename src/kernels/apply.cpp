// SPDX-License-Identifier: Apache-2.0
#include "kernels/apply.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/parallel_for.h"
#include "kernels/plan.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

constexpr std::int64_t kAheadBytes = 4096;
// The block after a larger one is not prefetched: two larger blocks drive each other out of a core's second
// cache (1 to 2 MB).
constexpr std::int64_t kFetchedBytes = 2 << 20;
// Results of more bytes would not be found in a cache afterwards.
constexpr std::int64_t kStreamedBytes = 8 << 20;
// Channels-first: shorter pieces of memory, and pieces of shorter rows, have too few whole vectors.
constexpr std::int64_t kStreamedPiece = 2048, kStreamedRow = 128;

template <class T>
T* at(void* data, std::int64_t i) {
  return data == nullptr ? nullptr : static_cast<T*>(data) + i;
}
template <class T>
const T* at(const void* data, std::int64_t i) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + i;
}

std::int64_t bytes(const Geometry& g, std::int64_t elements) {
  return elements * static_cast<std::int64_t>(size_of(g.dtype));
}

// Calls body(first element, first channel, extent) for the rows of memory that hold a part. `tensors`: number
// of tensors that are read.
template <class Body>
void for_each_rows(const Geometry& g, const Part& part, int tensors, const Body& body) {
  const auto size = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  // Some channels at all positions are a block; the sums read the next block next.
  const bool block = part.channels < g.channels && part.end - part.begin == g.positions();
  const auto width = g.layout == Layout::channels_last ? part.channels : part.channels * g.spatial;
  const bool fits = bytes(g, part.channels * g.positions()) * tensors <= kFetchedBytes;
  const std::size_t ahead =
      !block ? static_cast<std::size_t>(kAheadBytes) / size_of(g.dtype) : size(fits ? width : 0);
  if (g.layout == Layout::channels_last) {
    const std::int64_t rows = rows_in_one(g, part), n = part.end - part.begin, left = n % rows;
    body(g.offset(part.channel, part.begin), part.channel,
         Extent{size(n / rows), size(rows * part.channels), size(rows * g.channels), true, ahead});
    if (left == 0) return;
    return body(g.offset(part.channel, part.end - left), part.channel,
                Extent{size(left), size(part.channels), size(g.channels), true, ahead});
  }
  // A block's pieces of tensors that its sums have not read are too short for the hardware's prefetcher. The
  // next piece is the next sample's.
  const bool far = bytes(g, g.elements()) >= kStreamedBytes;
  const std::size_t next = block ? size(g.channels * g.spatial) : ahead;
  const std::size_t written_ahead = block && far ? next : 0;
  for (std::int64_t position = part.begin; position < part.end;) {
    const std::int64_t n = std::min(g.spatial - position % g.spatial, part.end - position);
    body(g.offset(part.channel, position), part.channel,
         Extent{size(part.channels), size(n), size(g.spatial), false, ahead, next, written_ahead});
    position += n;
  }
}

// A column of a part's channels, repeated if several rows are folded into one.
template <class T>
class Folded {
 public:
  Folded(const T* values, const Geometry& g, const Part& part) : values_(values) {
    const std::int64_t rows = rows_in_one(g, part);
    if (rows == 1) return;
    auto end = repeated_.begin();
    for (std::int64_t row = 0; row < rows; ++row) end = std::copy_n(values_, g.channels, end);
    values_ = repeated_.data();
  }
  Folded(const Folded&) = delete;
  Folded& operator=(const Folded&) = delete;
  const T* at(std::int64_t channel) const { return values_ + channel; }

 private:
  const T* values_;
  alignas(64) std::array<T, kFoldedRow> repeated_;
};

// Calls body(part) in parallel, from the end of memory to its beginning: the elements that the sums have read
// last may still be in a cache.
template <class Body>
void for_each_part(const Geometry& g, const Body& body) {
  if (g.elements() == 0) return;
  const bool last = g.layout == Layout::channels_last;
  // Long stretches, in which memory is read on and on: 64 KB each take 1.3 times as long as 2 MB
  // (AVX-512, two threads).
  const std::int64_t elements = std::max(kTaskElements, g.elements() / (16 * get_num_threads()));
  const std::int64_t width =
      last ? g.channels : std::clamp<std::int64_t>(elements / g.spatial, 1, g.channels);
  std::int64_t stretch = std::max<std::int64_t>(elements / width, 1);
  if (!last && stretch > g.spatial) stretch -= stretch % g.spatial;
  const std::int64_t columns = (g.channels + width - 1) / width;
  const auto tasks = static_cast<int>(columns * ((g.positions() + stretch - 1) / stretch));
  base::parallel_for(tasks, [&](int i) {
    const std::int64_t task = tasks - 1 - i;
    const std::int64_t channel = task % columns * width;
    const std::int64_t begin = task / columns * stretch;
    body(Part{channel, std::min(width, g.channels - channel), begin,
              std::min(begin + stretch, g.positions())});
  });
}

// Other threads may read the results as soon as this thread's task is done.
void flush(Write write) {
  if (write == Write::streaming) hwy::FlushStream();
}

}  // namespace

Write write_for(const Geometry& geometry, std::int64_t channels) {
  const std::int64_t row = bytes(geometry, geometry.spatial);
  const bool long_pieces =
      geometry.layout == Layout::channels_last || (row >= kStreamedRow && channels * row >= kStreamedPiece);
  const bool streamed = long_pieces && bytes(geometry, geometry.elements()) >= kStreamedBytes;
  return forced_paths().streaming.value_or(streamed) ? Write::streaming : Write::cached;
}

template <class Storage>
void normalize(const ApplyLoops<Storage>& loops, const NormalizeTensors& t, const Geometry& geometry,
               const Part& part, const ForwardColumns<Compute<Storage>>& c, bool relu, Write write) {
  using T = Compute<Storage>;
  const Folded<T> mean_hi(c.mean_hi, geometry, part), k(c.k, geometry, part), shift(c.shift, geometry, part);
  for_each_rows(geometry, part, 1, [&](std::int64_t i, std::int64_t channel, const Extent& extent) {
    loops.normalize({at<Storage>(t.x, i), at<Storage>(t.residual, i), at<Storage>(t.y, i), extent, relu},
                    {mean_hi.at(channel), k.at(channel), shift.at(channel)}, write);
  });
  flush(write);
}

template <class Storage>
void differentiate(const ApplyLoops<Storage>& loops, const GradientTensors& t, const Geometry& geometry,
                   const Part& part, const BackwardColumns<Compute<Storage>>& c, bool of_batch, Write write) {
  using T = Compute<Storage>;
  if (t.dx == nullptr && t.d_residual == nullptr) return;
  // Both are streamed in the same steps, which needs the same alignment.
  const auto place = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 64; };
  if (t.dx != nullptr && t.d_residual != nullptr && place(t.dx) != place(t.d_residual)) write = Write::cached;
  const Folded<T> mean_hi(c.mean_hi, geometry, part), k(c.k, geometry, part), c2(c.c2, geometry, part),
      c1(c.c1, geometry, part);
  for_each_rows(geometry, part, 2, [&](std::int64_t i, std::int64_t channel, const Extent& extent) {
    loops.differentiate({at<Storage>(t.dy, i), at<Storage>(t.x, i), at<Storage>(t.y, i), at<Storage>(t.dx, i),
                         at<Storage>(t.d_residual, i), extent, of_batch},
                        {mean_hi.at(channel), k.at(channel), c2.at(channel), c1.at(channel)}, write);
  });
  flush(write);
}

template <class Storage>
void normalize(const ApplyLoops<Storage>& loops, const NormalizeTensors& t, const Geometry& geometry,
               const ForwardColumns<Compute<Storage>>& c, bool relu) {
  const Write write = write_for(geometry, geometry.channels);
  for_each_part(geometry, [&](const Part& part) { normalize(loops, t, geometry, part, c, relu, write); });
}

template <class Storage>
void differentiate(const ApplyLoops<Storage>& loops, const GradientTensors& t, const Geometry& geometry,
                   const BackwardColumns<Compute<Storage>>& c, bool of_batch) {
  const Write write = write_for(geometry, geometry.channels);
  for_each_part(geometry,
                [&](const Part& part) { differentiate(loops, t, geometry, part, c, of_batch, write); });
}

#define SYNCBN_INSTANTIATE(S)                                                                             \
  template void normalize(const ApplyLoops<S>&, const NormalizeTensors&, const Geometry&, const Part&,    \
                          const ForwardColumns<Compute<S>>&, bool, Write);                                \
  template void differentiate(const ApplyLoops<S>&, const GradientTensors&, const Geometry&, const Part&, \
                              const BackwardColumns<Compute<S>>&, bool, Write);                           \
  template void normalize(const ApplyLoops<S>&, const NormalizeTensors&, const Geometry&,                 \
                          const ForwardColumns<Compute<S>>&, bool);                                       \
  template void differentiate(const ApplyLoops<S>&, const GradientTensors&, const Geometry&,              \
                              const BackwardColumns<Compute<S>>&, bool);
SYNCBN_INSTANTIATE(float16)
SYNCBN_INSTANTIATE(bfloat16)
SYNCBN_INSTANTIATE(float)
SYNCBN_INSTANTIATE(double)
#undef SYNCBN_INSTANTIATE

}  // namespace syncbn::kernels
