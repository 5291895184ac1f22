#include "kernels/apply_segment.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/apply_segment.cpp"
#include <hwy/foreach_target.h>  // includes this file once per target, so before highway.h
#include <hwy/highway.h>

#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
namespace syncbn::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
// Never dispatched to: these targets do not fuse, and the result would have other bits.
void normalize(const float*, const float*, float*, std::size_t, const NormalizeSegment<float>&) {}
void differentiate(const float*, const float*, const float*, float*, float*, std::size_t,
                   const GradientSegment<float>&) {}
#else
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// The last elements of a run, fewer than a vector: a copy that may be read and written whole, so that they
// take the same instructions as the others. Null stays null.
class Rest {
 public:
  Rest(const float* from, std::size_t n) : present_(from != nullptr) {
    for (std::size_t i = 0; i < n && present_; ++i) values_[i] = from[i];
  }
  float* data() { return present_ ? values_ : nullptr; }
  void copy_to(float* to, std::size_t n) const {
    for (std::size_t i = 0; i < n && present_; ++i) to[i] = values_[i];
  }

 private:
  HWY_ALIGN float values_[HWY_MAX_BYTES / sizeof(float)] = {};
  bool present_;
};

template <bool kPerElement>
HWY_INLINE V coefficient(const float* values) {
  return kPerElement ? hn::LoadU(D(), values) : hn::Set(D(), *values);
}

// y > 0, or NaN: v; else +0.
HWY_INLINE V where_positive(V y, V v) { return hn::IfThenElse(hn::Le(y, hn::Zero(D())), hn::Zero(D()), v); }

template <bool kPerElement, bool kResidual, bool kRelu>
HWY_INLINE void normalize_vector(const float* x, const float* residual, float* y, const float* mean_hi,
                                 const float* k, const float* shift) {
  const V centred = hn::Sub(hn::LoadU(D(), x), coefficient<kPerElement>(mean_hi));
  V value = hn::MulAdd(centred, coefficient<kPerElement>(k), coefficient<kPerElement>(shift));
  if constexpr (kResidual) value = hn::Add(value, hn::LoadU(D(), residual));
  if constexpr (kRelu) value = where_positive(value, value);
  hn::StoreU(value, D(), y);
}

template <bool kPerElement, bool kResidual, bool kRelu>
void normalize_run(const float* x, const float* residual, float* y, std::size_t n,
                   const NormalizeSegment<float>& c) {
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const std::size_t j = kPerElement ? i : 0;
    normalize_vector<kPerElement, kResidual, kRelu>(x + i, kResidual ? residual + i : nullptr, y + i,
                                                    c.mean_hi + j, c.k + j, c.shift + j);
  }
  if (i == n) return;
  const std::size_t m = n - i;
  const std::size_t j = kPerElement ? i : 0;
  const std::size_t coefficients = kPerElement ? m : 1;
  Rest x_rest(x + i, m), residual_rest(kResidual ? residual + i : nullptr, m), y_rest(y + i, 0);
  Rest mean_hi(c.mean_hi + j, coefficients), k(c.k + j, coefficients), shift(c.shift + j, coefficients);
  normalize_vector<kPerElement, kResidual, kRelu>(x_rest.data(), residual_rest.data(), y_rest.data(),
                                                  mean_hi.data(), k.data(), shift.data());
  y_rest.copy_to(y + i, m);
}

void normalize(const float* x, const float* residual, float* y, std::size_t n,
               const NormalizeSegment<float>& c) {
  const auto run = [&]<bool kPerElement>() {
    if (residual != nullptr) {
      return c.relu ? normalize_run<kPerElement, true, true> : normalize_run<kPerElement, true, false>;
    }
    return c.relu ? normalize_run<kPerElement, false, true> : normalize_run<kPerElement, false, false>;
  };
  (c.per_element ? run.template operator()<true>() : run.template operator()<false>())(x, residual, y, n, c);
}

template <bool kPerElement, bool kOfBatch>
HWY_INLINE void differentiate_vector(const float* dy, const float* x, const float* y, float* dx,
                                     float* d_residual, const float* mean_hi, const float* k, const float* c2,
                                     const float* c1) {
  V masked = hn::LoadU(D(), dy);
  if (y != nullptr) masked = where_positive(hn::LoadU(D(), y), masked);
  if (d_residual != nullptr) hn::StoreU(masked, D(), d_residual);
  if (dx == nullptr) return;
  const V slope = coefficient<kPerElement>(k);
  if constexpr (kOfBatch) {
    const V centred = hn::Sub(hn::LoadU(D(), x), coefficient<kPerElement>(mean_hi));
    const V inner = hn::MulAdd(coefficient<kPerElement>(c2), centred, coefficient<kPerElement>(c1));
    hn::StoreU(hn::MulAdd(slope, masked, inner), D(), dx);
  } else {
    hn::StoreU(hn::Mul(slope, masked), D(), dx);
  }
}

template <bool kPerElement, bool kOfBatch>
void differentiate_run(const float* dy, const float* x, const float* y, float* dx, float* d_residual,
                       std::size_t n, const GradientSegment<float>& c) {
  const std::size_t lanes = hn::Lanes(D());
  const auto at = [](auto* data, std::size_t i) { return data == nullptr ? nullptr : data + i; };
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const std::size_t j = kPerElement ? i : 0;
    differentiate_vector<kPerElement, kOfBatch>(dy + i, x + i, at(y, i), at(dx, i), at(d_residual, i),
                                                c.mean_hi + j, c.k + j, c.c2 + j, c.c1 + j);
  }
  if (i == n) return;
  const std::size_t m = n - i;
  const std::size_t j = kPerElement ? i : 0;
  const std::size_t coefficients = kPerElement ? m : 1;
  Rest dy_rest(dy + i, m), x_rest(x + i, m), y_rest(at(y, i), m), dx_rest(at(dx, i), 0),
      d_rest(at(d_residual, i), 0);
  Rest mean_hi(c.mean_hi + j, coefficients), k(c.k + j, coefficients), c2(c.c2 + j, coefficients),
      c1(c.c1 + j, coefficients);
  differentiate_vector<kPerElement, kOfBatch>(dy_rest.data(), x_rest.data(), y_rest.data(), dx_rest.data(),
                                              d_rest.data(), mean_hi.data(), k.data(), c2.data(), c1.data());
  dx_rest.copy_to(at(dx, i), m);
  d_rest.copy_to(at(d_residual, i), m);
}

void differentiate(const float* dy, const float* x, const float* y, float* dx, float* d_residual,
                   std::size_t n, const GradientSegment<float>& c) {
  const auto run = c.per_element
                       ? (c.of_batch ? differentiate_run<true, true> : differentiate_run<true, false>)
                       : (c.of_batch ? differentiate_run<false, true> : differentiate_run<false, false>);
  run(dy, x, y, dx, d_residual, n, c);
}
#endif

}  // namespace syncbn::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::kernels {

HWY_EXPORT(normalize);
HWY_EXPORT(differentiate);

void normalize_segment(const float* x, const float* residual, float* y, std::size_t n,
                       const NormalizeSegment<float>& coefficients) {
  HWY_DISPATCH_TABLE(normalize)[target_index()](x, residual, y, n, coefficients);
}

void differentiate_segment(const float* dy, const float* x, const float* y, float* dx, float* d_residual,
                           std::size_t n, const GradientSegment<float>& coefficients) {
  HWY_DISPATCH_TABLE(differentiate)[target_index()](dy, x, y, dx, d_residual, n, coefficients);
}

}  // namespace syncbn::kernels
#endif
