#include "kernels/apply.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

#include "base/parallel_for.h"
#include "kernels/apply_rows.h"
#include "kernels/convert.h"
#include "kernels/isa.h"
#include "kernels/paths.h"
#include "kernels/reference.h"
#include "syncbn/threads.h"

namespace syncbn::kernels {
namespace {

// Some µs of work.
constexpr std::int64_t kTaskElements = 16384;
constexpr std::int64_t kAheadBytes = 4096;
// Of larger blocks the next one is not fetched while this one is written: they drive each other out of a
// core's second cache (1 to 2 MB).
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

// Calls body(first element, first channel, extent, per_element) for the rows of memory that hold a part.
// `tensors`: how many are read.
template <class Body>
void for_each_rows(const Geometry& g, const Part& part, int tensors, const Body& body) {
  const auto size = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  // Some of the channels at all positions: a block of several, and the next one is summed next.
  const bool block = part.channels < g.channels && part.end - part.begin == g.positions();
  const auto width = g.layout == Layout::channels_last ? part.channels : part.channels * g.spatial;
  const bool fits = bytes(g, part.channels * g.positions()) * tensors <= kFetchedBytes;
  const std::size_t ahead =
      !block ? static_cast<std::size_t>(kAheadBytes) / size_of(g.dtype) : size(fits ? width : 0);
  if (g.layout == Layout::channels_last) {
    const std::int64_t rows = rows_in_one(g, part), n = part.end - part.begin, left = n % rows;
    body(g.offset(part.channel, part.begin), part.channel,
         Extent{size(n / rows), size(rows * part.channels), size(rows * g.channels), ahead}, true);
    if (left == 0) return;
    return body(g.offset(part.channel, part.end - left), part.channel,
                Extent{size(left), size(part.channels), size(g.channels), ahead}, true);
  }
  // A block's pieces of what its sums have not read are too short for the machine to see them coming: after
  // this one comes the next sample's.
  const bool far = bytes(g, g.elements()) >= kStreamedBytes;
  const std::size_t next = block ? size(g.channels * g.spatial) : ahead;
  const std::size_t written_ahead = block && far ? next : 0;
  for (std::int64_t position = part.begin; position < part.end;) {
    const std::int64_t n = std::min(g.spatial - position % g.spatial, part.end - position);
    body(g.offset(part.channel, position), part.channel,
         Extent{size(part.channels), size(n), size(g.spatial), ahead, next, written_ahead}, false);
    position += n;
  }
}

// Coefficients of a part's channels, again and again for rows that are taken as one.
template <class T>
class Repeated {
 public:
  Repeated(const void* values, const Geometry& g, const Part& part) : values_(static_cast<const T*>(values)) {
    const std::int64_t rows = rows_in_one(g, part);
    if (rows == 1) return;
    auto end = repeated_.begin();
    for (std::int64_t row = 0; row < rows; ++row) end = std::copy_n(values_, g.channels, end);
    values_ = repeated_.data();
  }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;
  const T* at(std::int64_t channel) const { return values_ + channel; }

 private:
  const T* values_;
  alignas(64) std::array<T, kFoldedRow> repeated_;
};

template <class Storage>
void normalize_or_refer(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c,
                        Write write) {
  if (!use_reference()) return normalize_rows(t, c, write);
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    const auto i = static_cast<std::int64_t>(row * t.extent.stride);
    const std::size_t j = c.per_element ? 0 : row;
    reference::normalize(t.x + i, at<Storage>(t.residual, i), t.y + i, t.extent.n,
                         {c.mean_hi + j, c.k + j, c.shift + j, c.per_element, c.relu});
  }
}

template <class Storage>
void differentiate_or_refer(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c,
                            Write write) {
  if (!use_reference()) return differentiate_rows(t, c, write);
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    const auto i = static_cast<std::int64_t>(row * t.extent.stride);
    const std::size_t j = c.per_element ? 0 : row;
    reference::differentiate(t.dy + i, t.x + i, at<Storage>(t.y, i), at<Storage>(t.dx, i),
                             at<Storage>(t.d_residual, i), t.extent.n,
                             {c.mean_hi + j, c.k + j, c.c2 + j, c.c1 + j, c.per_element, c.of_batch});
  }
}

// Calls body(part) in parallel. From the end of memory to its beginning: what the sums have read last may
// still be in a cache.
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

// Other threads may read the results as soon as this one says that it is done.
void finish(Write write) {
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

void normalize(const NormalizeTensors& t, const Geometry& geometry, const Part& part,
               const NormalizeCoefficients& c, bool relu, Write write) {
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    using T = Compute<Storage>;
    const Repeated<T> mean_hi(c.mean_hi, geometry, part), k(c.k, geometry, part),
        shift(c.shift, geometry, part);
    for_each_rows(geometry, part, 1,
                  [&](std::int64_t i, std::int64_t channel, const Extent& extent, bool per_element) {
                    normalize_or_refer<Storage>(
                        {at<Storage>(t.x, i), at<Storage>(t.residual, i), at<Storage>(t.y, i), extent},
                        {mean_hi.at(channel), k.at(channel), shift.at(channel), per_element, relu}, write);
                  });
  });
  finish(write);
}

void differentiate(const GradientTensors& t, const Geometry& geometry, const Part& part,
                   const GradientCoefficients& c, Write write) {
  if (t.dx == nullptr && t.d_residual == nullptr) return;
  // Both are streamed in the same steps, so only where they lie alike.
  const auto place = [](const void* data) { return reinterpret_cast<std::uintptr_t>(data) % 64; };
  if (t.dx != nullptr && t.d_residual != nullptr && place(t.dx) != place(t.d_residual)) write = Write::cached;
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    using T = Compute<Storage>;
    const Repeated<T> mean_hi(c.mean_hi, geometry, part), k(c.k, geometry, part), c2(c.c2, geometry, part),
        c1(c.c1, geometry, part);
    for_each_rows(
        geometry, part, 2, [&](std::int64_t i, std::int64_t channel, const Extent& extent, bool per_element) {
          differentiate_or_refer<Storage>(
              {at<Storage>(t.dy, i), at<Storage>(t.x, i), at<Storage>(t.y, i), at<Storage>(t.dx, i),
               at<Storage>(t.d_residual, i), extent},
              {mean_hi.at(channel), k.at(channel), c2.at(channel), c1.at(channel), per_element, c.of_batch},
              write);
        });
  });
  finish(write);
}

void normalize(const NormalizeTensors& t, const Geometry& geometry, const NormalizeCoefficients& c,
               bool relu) {
  const Write write = write_for(geometry, geometry.channels);
  for_each_part(geometry, [&](const Part& part) { normalize(t, geometry, part, c, relu, write); });
}

void differentiate(const GradientTensors& t, const Geometry& geometry, const GradientCoefficients& c) {
  const Write write = write_for(geometry, geometry.channels);
  for_each_part(geometry, [&](const Part& part) { differentiate(t, geometry, part, c, write); });
}

Paths& forced_paths() {
  static Paths paths;
  return paths;
}

}  // namespace syncbn::kernels
