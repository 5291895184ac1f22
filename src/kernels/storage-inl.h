// SPDX-License-Identifier: Apache-2.0

// Vectors of the compute type from and to memory of any storage type: widening is exact, narrowing rounds
// once, to nearest even. Included once per target, after <hwy/highway.h>.

#if defined(SYNCBN_KERNELS_STORAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_KERNELS_STORAGE_INL_H_
#undef SYNCBN_KERNELS_STORAGE_INL_H_
#else
#define SYNCBN_KERNELS_STORAGE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/types.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR

template <class Storage>
using ComputeTag = hn::ScalableTag<Compute<Storage>>;
template <class Storage>
using ComputeVec = hn::Vec<ComputeTag<Storage>>;

template <class T>
HWY_INLINE ComputeVec<T> load(const T* p) {
  return hn::LoadU(ComputeTag<T>(), p);
}
HWY_INLINE ComputeVec<bfloat16> load(const bfloat16* p) {
  const hn::RebindToUnsigned<ComputeTag<float>> du;
  const hn::Rebind<std::uint16_t, decltype(du)> d16;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(ComputeTag<float>(), hn::ShiftLeft<16>(bits));
}
HWY_INLINE ComputeVec<float16> load(const float16* p) {
  const hn::Rebind<hwy::float16_t, ComputeTag<float>> d16;
  return hn::PromoteTo(ComputeTag<float>(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <Write kWrite, class D, class V, class T>
HWY_INLINE void write(D d, V v, T* p) {
  if constexpr (kWrite == Write::streaming) {
    hn::Stream(v, d, p);
  } else {
    hn::StoreU(v, d, p);
  }
}
template <Write kWrite, class T>
HWY_INLINE void store(ComputeVec<T> v, T* p) {
  write<kWrite>(ComputeTag<T>(), v, p);
}
// Highway 1.0.3 truncates to bfloat16 on every target.
template <Write kWrite>
HWY_INLINE void store(ComputeVec<float> v, bfloat16* p) {
  const hn::RebindToUnsigned<ComputeTag<float>> du;
  const hn::Repartition<std::uint16_t, decltype(du)> halves;
  const hn::Rebind<std::uint16_t, decltype(du)> d16;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fff)), odd);
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto result = hn::BitCast(halves, hn::IfThenElse(hn::RebindMask(du, hn::Ne(v, v)), quiet, rounded));
  const auto upper = hn::LowerHalf(d16, hn::ConcatOdd(halves, result, result));
  write<kWrite>(d16, upper, reinterpret_cast<std::uint16_t*>(p));
}
// Rounds to nearest even on AVX2, AVX-512 and NEON, where hardware does it; other targets are not dispatched
// to.
template <Write kWrite>
HWY_INLINE void store(ComputeVec<float> v, float16* p) {
  const hn::Rebind<hwy::float16_t, ComputeTag<float>> d16;
  write<kWrite>(d16, hn::DemoteTo(d16, v), reinterpret_cast<hwy::float16_t*>(p));
}

// y > 0, or NaN: v; else +0. The mask of ReLU.
template <class V>
HWY_INLINE V where_passes(V y, V v) {
  const hn::DFromV<V> d;
  return hn::IfThenElse(hn::Le(y, hn::Zero(d)), hn::Zero(d), v);
}

// Whether masked loads and stores touch nothing outside the mask. Highway has none such for 16-bit elements
// on AVX2, and none on NEON.
template <class T>
constexpr bool kMaskedMemory = HWY_TARGET != HWY_NEON && (sizeof(T) >= 4 || HWY_MAX_BYTES == 64);

// Copies n elements, fewer than a vector of the compute type has. Not inline: in line it slowed the loops
// over whole vectors beside it (1.1 times a backward of (256,1024), bfloat16, AVX2).
template <class T>
HWY_NOINLINE void copy_some(const T* from, std::size_t n, T* to) {
  for (std::size_t part = HWY_MAX_BYTES / sizeof(Compute<T>) / 2; part != 0; part /= 2) {
    if ((n & part) == 0) continue;
    std::memcpy(to, from, part * sizeof(T));
    from += part;
    to += part;
  }
}

// The last n elements of a run, fewer than a vector. What is not loaded is +0.
template <class T>
HWY_INLINE ComputeVec<T> load_some(const T* p, std::size_t n) {
  const ComputeTag<T> d;
  T values[HWY_MAX_BYTES / sizeof(Compute<T>)] = {};
  if constexpr (kMaskedMemory<T> && sizeof(T) >= 4) {
    return hn::MaskedLoad(hn::FirstN(d, n), d, p);
  } else if constexpr (kMaskedMemory<T>) {
    const hn::Rebind<std::uint16_t, decltype(d)> d16;
    hn::StoreU(hn::MaskedLoad(hn::FirstN(d16, n), d16, reinterpret_cast<const std::uint16_t*>(p)), d16,
               reinterpret_cast<std::uint16_t*>(values));
    return load(values);
  } else {
    copy_some(p, n, values);
    return load(values);
  }
}
template <class T>
HWY_INLINE void store_some(ComputeVec<T> v, T* p, std::size_t n) {
  const ComputeTag<T> d;
  T values[HWY_MAX_BYTES / sizeof(Compute<T>)];
  if constexpr (kMaskedMemory<T> && sizeof(T) >= 4) {
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
  } else if constexpr (kMaskedMemory<T>) {
    const hn::Rebind<std::uint16_t, decltype(d)> d16;
    store<Write::cached>(v, values);
    hn::BlendedStore(hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(values)), hn::FirstN(d16, n), d16,
                     reinterpret_cast<std::uint16_t*>(p));
  } else {
    store<Write::cached>(v, values);
    copy_some(values, n, p);
  }
}

#endif

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
