// SPDX-License-Identifier: Apache-2.0

// Batch normalization as a textbook has it, sums in double, the loops left to the compiler (-O3
// -march=native).
#include <cmath>

#include "contenders.h"

namespace bench {
namespace {

struct Sums {
  double s = 0, p = 0;  // Σa, Σa·b
};

Sums sums_of(const float* a, const float* b, std::int64_t n) {
  double s = 0, p = 0;
#pragma omp simd reduction(+ : s, p)
  for (std::int64_t i = 0; i < n; ++i) {
    s += static_cast<double>(a[i]);
    p += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return {s, p};
}

// Σa and Σa·b of every channel, channels-last: rows in parallel, each core with separate sums.
std::vector<Sums> row_sums(const float* a, const float* b, std::int64_t rows, std::int64_t channels) {
  const auto c_end = static_cast<std::size_t>(channels);
  std::vector<Sums> total(c_end);
#pragma omp parallel
  {
    std::vector<double> s(c_end), p(c_end);
#pragma omp for schedule(static)
    for (std::int64_t r = 0; r < rows; ++r) {
      const float *row_a = a + r * channels, *row_b = b + r * channels;
      double *ss = s.data(), *pp = p.data();
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) {
        ss[c] += static_cast<double>(row_a[c]);
        pp[c] += static_cast<double>(row_a[c]) * static_cast<double>(row_b[c]);
      }
    }
#pragma omp critical
    for (std::size_t c = 0; c < c_end; ++c) {
      total[c].s += s[c];
      total[c].p += p[c];
    }
  }
  return total;
}

std::vector<Sums> plane_sums(const float* a, const float* b, const syncbn::Shape& shape) {
  const std::int64_t channels = shape.channels(), spatial = shape.spatial();
  std::vector<Sums> total(static_cast<std::size_t>(channels));
#pragma omp parallel for schedule(static)
  for (std::int64_t c = 0; c < channels; ++c) {
    Sums channel;
    for (std::int64_t n = 0; n < shape.samples(); ++n) {
      const std::int64_t at = (n * channels + c) * spatial;
      const Sums plane = sums_of(a + at, b + at, spatial);
      channel.s += plane.s;
      channel.p += plane.p;
    }
    total[static_cast<std::size_t>(c)] = channel;
  }
  return total;
}

}  // namespace

PlainLoops::PlainLoops(const Tensors& tensors)
    : t_(tensors),
      mean_(static_cast<std::size_t>(tensors.problem.shape().channels())),
      invstd_(mean_.size()) {
  forward();
}

void PlainLoops::forward() {
  const syncbn::Shape shape = t_.problem.shape();
  const auto* x = static_cast<const float*>(t_.x.data());
  auto* y = static_cast<float*>(t_.y.data());
  const std::int64_t rows = shape.samples() * shape.spatial(), channels = shape.channels();
  const auto n = static_cast<double>(rows);
  const bool last = t_.problem.channels_last();
  const std::vector<Sums> sums = last ? row_sums(x, x, rows, channels) : plane_sums(x, x, shape);
  std::vector<float> scale(mean_.size()), shift(mean_.size());
  for (std::size_t c = 0; c < mean_.size(); ++c) {
    mean_[c] = sums[c].s / n;
    invstd_[c] = 1 / std::sqrt(sums[c].p / n - mean_[c] * mean_[c] + 1e-5);
    scale[c] = static_cast<float>(invstd_[c]);
    shift[c] = static_cast<float>(-mean_[c] * invstd_[c]);
  }
  const std::int64_t runs = last ? rows : shape.samples() * channels;
  const std::int64_t length = last ? channels : shape.spatial();
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < runs; ++r) {
    const float* from = x + r * length;
    float* to = y + r * length;
    const float *k = scale.data() + (last ? 0 : r % channels), *m = shift.data() + (last ? 0 : r % channels);
    if (last) {
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) to[i] = from[i] * k[i] + m[i];
    } else {
      const float kk = *k, mm = *m;
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) to[i] = from[i] * kk + mm;
    }
  }
}

void PlainLoops::backward() {
  const syncbn::Shape shape = t_.problem.shape();
  const auto* x = static_cast<const float*>(t_.x.data());
  const auto* dy = static_cast<const float*>(t_.dy.data());
  auto* dx = static_cast<float*>(t_.dx.data());
  const std::int64_t rows = shape.samples() * shape.spatial(), channels = shape.channels();
  const auto n = static_cast<double>(rows);
  const bool last = t_.problem.channels_last();
  const std::vector<Sums> sums = last ? row_sums(dy, x, rows, channels) : plane_sums(dy, x, shape);
  std::vector<float> k(mean_.size()), c2(mean_.size()), c1(mean_.size());
  for (std::size_t c = 0; c < mean_.size(); ++c) {
    const double slope = -invstd_[c] * invstd_[c] * invstd_[c] * (sums[c].p - mean_[c] * sums[c].s) / n;
    k[c] = static_cast<float>(invstd_[c]);
    c2[c] = static_cast<float>(slope);
    c1[c] = static_cast<float>(-invstd_[c] * sums[c].s / n - slope * mean_[c]);
  }
  const std::int64_t runs = last ? rows : shape.samples() * channels;
  const std::int64_t length = last ? channels : shape.spatial();
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < runs; ++r) {
    const float *g = dy + r * length, *from = x + r * length;
    float* to = dx + r * length;
    const auto first = static_cast<std::size_t>(last ? 0 : r % channels);
    if (last) {
      const float *kk = k.data(), *cc2 = c2.data(), *cc1 = c1.data();
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) to[i] = g[i] * kk[i] + (from[i] * cc2[i] + cc1[i]);
    } else {
      const float kk = k[first], cc2 = c2[first], cc1 = c1[first];
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) to[i] = g[i] * kk + (from[i] * cc2 + cc1);
    }
  }
}

}  // namespace bench
