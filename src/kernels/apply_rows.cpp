// SPDX-License-Identifier: Apache-2.0
#include "kernels/apply_rows.h"

#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/apply_rows.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // includes this file once per target, so before highway.h
#include <hwy/highway.h>

#include "kernels/isa.h"
#include "kernels/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Never dispatched to: these targets do not fuse, and the result would have other bits.
template <class Storage>
void normalize(const NormalizeRows<Storage>&, const ForwardColumns<const Compute<Storage>>&, Write) {}
template <class Storage>
void differentiate(const GradientRows<Storage>&, const BackwardColumns<const Compute<Storage>>&, Write) {}
#else

// Prefetches into the second cache: the data may be needed only after this whole loop.
HWY_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
// No prefetch in channels-first with 16 bits: their sums take longer than the memory.
template <bool kPerElement, class Storage>
constexpr bool kFetched = kPerElement || sizeof(Storage) >= 4;
template <Write kWrite, class Storage>
HWY_INLINE void fetch_to_write(const Storage* p, const Extent& extent) {
  if (kWrite == Write::cached && extent.written_ahead != 0)
    __builtin_prefetch(p + extent.written_ahead, 1, 3);
}

// The coefficients of one row in the lanes of vectors. Joined: those of `before` in the first lanes.
template <class Storage>
using ForwardVectors = exact::ForwardCoefficients<ComputeVec<Storage>>;
template <class Storage>
using BackwardVectors = exact::BackwardCoefficients<ComputeVec<Storage>>;
template <class Storage, class V>
HWY_INLINE exact::ForwardCoefficients<V> join(const exact::ForwardCoefficients<V>& before,
                                              const exact::ForwardCoefficients<V>& after, std::size_t first) {
  const auto mask = hn::FirstN(ComputeTag<Storage>(), first);
  return {hn::IfThenElse(mask, before.mean_hi, after.mean_hi), hn::IfThenElse(mask, before.k, after.k),
          hn::IfThenElse(mask, before.shift, after.shift)};
}
template <class Storage, class V>
HWY_INLINE exact::BackwardCoefficients<V> join(const exact::BackwardCoefficients<V>& before,
                                               const exact::BackwardCoefficients<V>& after,
                                               std::size_t first) {
  const auto mask = hn::FirstN(ComputeTag<Storage>(), first);
  return {hn::IfThenElse(mask, before.mean_hi, after.mean_hi), hn::IfThenElse(mask, before.k, after.k),
          hn::IfThenElse(mask, before.c2, after.c2), hn::IfThenElse(mask, before.c1, after.c1)};
}

// Calls body(i, j, coefficients, read, write) for vectors of elements; the first lane is element i of the
// extent and element j of its row. Streaming writes need aligned vectors: the elements before the first
// aligned vector and after the last go through the caches. Contiguous rows of one channel each are one run,
// in which a vector may hold the end of one row and the beginning of the next: short rows have few whole
// cache lines of their own.
template <bool kPerElement, Write kWrite, class Storage, class OfRow, class Body>
HWY_INLINE void for_each_vector(const Storage* written, const Extent& extent, const OfRow& of_row,
                                const Body& body) {
  const std::size_t lanes = hn::Lanes(ComputeTag<Storage>());
  const bool one_run = !kPerElement && extent.stride == extent.n && extent.n >= lanes;
  auto here = of_row(0);
  std::size_t i = 0;
  for (std::size_t row = 0; row < extent.rows; ++row) {
    const std::size_t begin = row * extent.stride, end = begin + extent.n;
    const auto whole = [&](const auto& coefficients) HWY_ATTR {
      body(
          i, i - begin, coefficients, [](const auto* p) HWY_ATTR { return load(p); },
          [](auto v, Storage* p) HWY_ATTR { store<kWrite>(v, p); });
      i += lanes;
    };
    const auto some = [&](std::size_t count) HWY_ATTR {
      body(
          i, i - begin, here, [count](const auto* p) HWY_ATTR { return load_some(p, count); },
          [count](auto v, Storage* p) HWY_ATTR { store_some(v, p, count); });
      i += count;
    };
    if (!one_run) i = begin;
    if (kWrite == Write::streaming && (row == 0 || !one_run)) {
      const std::size_t bytes = lanes * sizeof(Storage);
      const std::size_t before =
          (bytes - reinterpret_cast<std::uintptr_t>(written + i) % bytes) % bytes / sizeof(Storage);
      if (before != 0) some(HWY_MIN(before, extent.n));
    }
    while (i + lanes <= end) whole(here);
    const bool last = row + 1 == extent.rows;
    const auto next = of_row(last ? row : row + 1);
    if (i < end) {
      if (one_run && !last) {
        whole(join<Storage>(here, next, end - i));
      } else {
        some(end - i);
      }
    }
    here = next;
  }
}

template <bool kPerElement, Write kWrite, class Storage>
void normalize_rows_of(const NormalizeRows<Storage> t, const ForwardColumns<const Compute<Storage>> c) {
  const ComputeTag<Storage> d;
  const auto of_row = [&](std::size_t row) HWY_ATTR {
    const std::size_t j = row * !kPerElement;
    return ForwardVectors<Storage>{hn::Set(d, c.mean_hi[j]), hn::Set(d, c.k[j]), hn::Set(d, c.shift[j])};
  };
  for_each_vector<kPerElement, kWrite>(
      t.y, t.extent, of_row,
      [&](std::size_t i, std::size_t j, const auto& of, const auto& read, const auto& write) HWY_ATTR {
        const auto coefficient = [&](const auto& of_this_row, const Compute<Storage>* values) HWY_ATTR {
          if constexpr (kPerElement) return read(values + j);
          return of_this_row;
        };
        if constexpr (kFetched<kPerElement, Storage>) fetch(t.x + i + t.extent.ahead);
        fetch_to_write<kWrite>(t.y + i, t.extent);
        auto value = hn::MulAdd(hn::Sub(read(t.x + i), coefficient(of.mean_hi, c.mean_hi)),
                                coefficient(of.k, c.k), coefficient(of.shift, c.shift));
        // In channels-last the hardware's prefetcher is enough, and fetching costs 5 to 14 %.
        if (!kPerElement && t.residual != nullptr) fetch(t.residual + i + t.extent.residual_ahead);
        if (t.residual != nullptr) value = hn::Add(value, read(t.residual + i));
        if (t.relu) value = where_passes(value, value);
        write(value, t.y + i);
      });
}

template <bool kPerElement, Write kWrite, class Storage>
void differentiate_rows_of(const GradientRows<Storage> t, const BackwardColumns<const Compute<Storage>> c) {
  const ComputeTag<Storage> d;
  const auto of_row = [&](std::size_t row) HWY_ATTR {
    const std::size_t j = row * !kPerElement;
    return BackwardVectors<Storage>{hn::Set(d, c.mean_hi[j]), hn::Set(d, c.k[j]), hn::Set(d, c.c2[j]),
                                    hn::Set(d, c.c1[j])};
  };
  const Storage* written = t.dx != nullptr ? t.dx : t.d_residual;  // both alike
  for_each_vector<kPerElement, kWrite>(
      written, t.extent, of_row,
      [&](std::size_t i, std::size_t j, const auto& of, const auto& read, const auto& write) HWY_ATTR {
        const auto coefficient = [&](const auto& of_this_row, const Compute<Storage>* values) HWY_ATTR {
          if constexpr (kPerElement) return read(values + j);
          return of_this_row;
        };
        if constexpr (kFetched<kPerElement, Storage>) {
          fetch(t.dy + i + t.extent.ahead);
          fetch(t.x + i + t.extent.ahead);
          if (t.y != nullptr) fetch(t.y + i + t.extent.ahead);
        }
        auto masked = read(t.dy + i);
        if (t.y != nullptr) masked = where_passes(read(t.y + i), masked);
        if (t.d_residual != nullptr) write(masked, t.d_residual + i);
        if (t.dx == nullptr) return;
        fetch_to_write<kWrite>(t.dx + i, t.extent);
        const auto slope = coefficient(of.k, c.k);
        if (t.of_batch) {
          const auto inner =
              hn::MulAdd(coefficient(of.c2, c.c2), hn::Sub(read(t.x + i), coefficient(of.mean_hi, c.mean_hi)),
                         coefficient(of.c1, c.c1));
          write(hn::MulAdd(slope, masked, inner), t.dx + i);
        } else {
          write(hn::Mul(slope, masked), t.dx + i);
        }
      });
}

template <class Storage>
void normalize(const NormalizeRows<Storage>& t, const ForwardColumns<const Compute<Storage>>& c,
               Write write) {
  if (write == Write::streaming) {
    t.extent.per_element ? normalize_rows_of<true, Write::streaming>(t, c)
                         : normalize_rows_of<false, Write::streaming>(t, c);
  } else {
    t.extent.per_element ? normalize_rows_of<true, Write::cached>(t, c)
                         : normalize_rows_of<false, Write::cached>(t, c);
  }
}
template <class Storage>
void differentiate(const GradientRows<Storage>& t, const BackwardColumns<const Compute<Storage>>& c,
                   Write write) {
  if (write == Write::streaming) {
    t.extent.per_element ? differentiate_rows_of<true, Write::streaming>(t, c)
                         : differentiate_rows_of<false, Write::streaming>(t, c);
  } else {
    t.extent.per_element ? differentiate_rows_of<true, Write::cached>(t, c)
                         : differentiate_rows_of<false, Write::cached>(t, c);
  }
}
#endif

const PerStorage<ApplyLoops>& apply_tables() {
  static constexpr PerStorage<ApplyLoops> kTables{{normalize<float16>, differentiate<float16>},
                                                  {normalize<bfloat16>, differentiate<bfloat16>},
                                                  {normalize<float>, differentiate<float>},
                                                  {normalize<double>, differentiate<double>}};
  return kTables;
}

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {
namespace {
HWY_EXPORT(apply_tables);
}

const PerStorage<ApplyLoops>& apply_tables() { return HWY_DISPATCH_TABLE(apply_tables)[target_index()](); }

}  // namespace syncbn::kernels
#endif
