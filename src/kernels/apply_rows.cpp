#include "kernels/apply_rows.h"

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
void normalize(const NormalizeRows<Storage>&, const NormalizeSegment<Compute<Storage>>&, Write) {}
template <class Storage>
void differentiate(const GradientRows<Storage>&, const GradientSegment<Compute<Storage>>&, Write) {}
#else

// Into the second cache: it may be needed only after all of this.
HWY_INLINE void fetch(const void* p) { __builtin_prefetch(p, 0, 2); }
template <Write kWrite, class Storage>
HWY_INLINE void fetch_to_write(const Storage* p, const Extent& extent) {
  if (kWrite == Write::cached && extent.written_ahead != 0)
    __builtin_prefetch(p + extent.written_ahead, 1, 3);
}

// The elements of one row in turn: calls body(i, access) for vectors of them. Streaming writes want aligned
// vectors: what comes before the first and after the last is written by the caches.
template <Write kWrite, class Storage, class Body>
HWY_INLINE void for_each_vector(const Storage* written, std::size_t n, const Body& body) {
  const std::size_t lanes = hn::Lanes(ComputeTag<Storage>());
  const auto whole = [](auto v, Storage* p) HWY_ATTR { store<kWrite>(v, p); };
  std::size_t i = 0;
  const auto some = [&](std::size_t count) HWY_ATTR {
    body(
        i, [count](const auto* p) HWY_ATTR { return load_some(p, count); },
        [count](auto v, Storage* p) HWY_ATTR { store_some(v, p, count); });
    i += count;
  };
  if (kWrite == Write::streaming) {
    const std::size_t bytes = lanes * sizeof(Storage);
    const std::size_t before =
        (bytes - reinterpret_cast<std::uintptr_t>(written) % bytes) % bytes / sizeof(Storage);
    if (before != 0) some(HWY_MIN(before, n));
  }
  for (; i + lanes <= n; i += lanes) {
    body(
        i, [](const auto* p) HWY_ATTR { return load(p); }, whole);
  }
  if (i < n) some(n - i);
}

template <bool kPerElement, Write kWrite, class Storage>
void normalize_rows_of(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c) {
  using T = Compute<Storage>;
  const ComputeTag<Storage> d;
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    const Storage* x = t.x + row * t.extent.stride;
    const Storage* residual = t.residual == nullptr ? nullptr : t.residual + row * t.extent.stride;
    Storage* y = t.y + row * t.extent.stride;
    const auto mean_hi = hn::Set(d, c.mean_hi[row * !kPerElement]), k = hn::Set(d, c.k[row * !kPerElement]),
               shift = hn::Set(d, c.shift[row * !kPerElement]);
    for_each_vector<kWrite>(y, t.extent.n, [&](std::size_t i, const auto& read, const auto& write) HWY_ATTR {
      const auto of = [&](auto row_value, const T* values) HWY_ATTR {
        if constexpr (kPerElement) return read(values + i);
        return row_value;
      };
      fetch(x + i + t.extent.ahead);
      fetch_to_write<kWrite>(y + i, t.extent);
      auto value = hn::MulAdd(hn::Sub(read(x + i), of(mean_hi, c.mean_hi)), of(k, c.k), of(shift, c.shift));
      if (residual != nullptr) value = hn::Add(value, read(residual + i));
      if (c.relu) value = where_passes(value, value);
      write(value, y + i);
    });
  }
}

template <bool kPerElement, Write kWrite, class Storage>
void differentiate_rows_of(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c) {
  using T = Compute<Storage>;
  const ComputeTag<Storage> d;
  for (std::size_t row = 0; row < t.extent.rows; ++row) {
    const auto at = [&](auto* data) { return data == nullptr ? nullptr : data + row * t.extent.stride; };
    const Storage *dy = at(t.dy), *x = at(t.x), *y = at(t.y);
    Storage *dx = at(t.dx), *d_residual = at(t.d_residual);
    const std::size_t j = row * !kPerElement;
    const auto mean_hi = hn::Set(d, c.mean_hi[j]), k = hn::Set(d, c.k[j]), c2 = hn::Set(d, c.c2[j]),
               c1 = hn::Set(d, c.c1[j]);
    const Storage* aligned = dx != nullptr ? dx : d_residual;  // both alike
    for_each_vector<kWrite>(
        aligned, t.extent.n, [&](std::size_t i, const auto& read, const auto& write) HWY_ATTR {
          const auto of = [&](auto row_value, const T* values) HWY_ATTR {
            if constexpr (kPerElement) return read(values + i);
            return row_value;
          };
          if constexpr (kPerElement) {  // channels-first rows are found without
            fetch(dy + i + t.extent.ahead);
            fetch(x + i + t.extent.ahead);
          }
          auto masked = read(dy + i);
          if (y != nullptr) masked = where_passes(read(y + i), masked);
          if (d_residual != nullptr) write(masked, d_residual + i);
          if (dx == nullptr) return;
          fetch_to_write<kWrite>(dx + i, t.extent);
          const auto slope = of(k, c.k);
          if (c.of_batch) {
            const auto inner =
                hn::MulAdd(of(c2, c.c2), hn::Sub(read(x + i), of(mean_hi, c.mean_hi)), of(c1, c.c1));
            write(hn::MulAdd(slope, masked, inner), dx + i);
          } else {
            write(hn::Mul(slope, masked), dx + i);
          }
        });
  }
}

template <class Storage>
void normalize(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c, Write write) {
  if (write == Write::streaming) {
    c.per_element ? normalize_rows_of<true, Write::streaming>(t, c)
                  : normalize_rows_of<false, Write::streaming>(t, c);
  } else {
    c.per_element ? normalize_rows_of<true, Write::cached>(t, c)
                  : normalize_rows_of<false, Write::cached>(t, c);
  }
}
template <class Storage>
void differentiate(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c, Write write) {
  if (write == Write::streaming) {
    c.per_element ? differentiate_rows_of<true, Write::streaming>(t, c)
                  : differentiate_rows_of<false, Write::streaming>(t, c);
  } else {
    c.per_element ? differentiate_rows_of<true, Write::cached>(t, c)
                  : differentiate_rows_of<false, Write::cached>(t, c);
  }
}
#endif

#define SYNCBN_APPLY(Storage)                                                                              \
  void normalize_##Storage(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c,   \
                           Write w) {                                                                      \
    normalize(t, c, w);                                                                                    \
  }                                                                                                        \
  void differentiate_##Storage(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c, \
                               Write w) {                                                                  \
    differentiate(t, c, w);                                                                                \
  }
SYNCBN_APPLY(float)
SYNCBN_APPLY(double)
SYNCBN_APPLY(float16)
SYNCBN_APPLY(bfloat16)
#undef SYNCBN_APPLY

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {

#define SYNCBN_APPLY(Storage)                                                                         \
  HWY_EXPORT(normalize_##Storage);                                                                    \
  HWY_EXPORT(differentiate_##Storage);                                                                \
  template <>                                                                                         \
  void normalize_rows(const NormalizeRows<Storage>& t, const NormalizeSegment<Compute<Storage>>& c,   \
                      Write w) {                                                                      \
    HWY_DISPATCH_TABLE(normalize_##Storage)[target_index()](t, c, w);                                 \
  }                                                                                                   \
  template <>                                                                                         \
  void differentiate_rows(const GradientRows<Storage>& t, const GradientSegment<Compute<Storage>>& c, \
                          Write w) {                                                                  \
    HWY_DISPATCH_TABLE(differentiate_##Storage)[target_index()](t, c, w);                             \
  }
SYNCBN_APPLY(float)
SYNCBN_APPLY(double)
SYNCBN_APPLY(float16)
SYNCBN_APPLY(bfloat16)
#undef SYNCBN_APPLY

}  // namespace syncbn::kernels
#endif
