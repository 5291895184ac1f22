// SPDX-License-Identifier: Apache-2.0

// The bytes that must move, and nothing else: the speed limit that fractions of the copy refer to.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "contenders.h"
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace bench {
namespace {

constexpr std::size_t kLine = 64;     // a buffer begins with one
constexpr std::size_t kAhead = 2048;  // bytes prefetched ahead

#ifdef __AVX512F__
struct Vector {
  static __m512 load(const float* a) { return _mm512_load_ps(a); }
  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static void stream(float* a, __m512 v) { _mm512_stream_ps(a, v); }
  static constexpr std::size_t lanes = 16;
};
#elif defined(__AVX__)
struct Vector {
  static __m256 load(const float* a) { return _mm256_load_ps(a); }
  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static void stream(float* a, __m256 v) { _mm256_stream_ps(a, v); }
  static constexpr std::size_t lanes = 8;
};
#else
struct Vector {
  static float load(const float* a) { return *a; }
  static float add(float a, float b) { return a + b; }
  static void stream(float* a, float v) { *a = v; }
  static constexpr std::size_t lanes = 1;
};
#endif

// body(first byte, last byte) on every core, whole lines; the rest is the last one's.
template <class Body>
void split(std::size_t bytes, const Body& body) {
#pragma omp parallel
  {
    const auto threads = static_cast<std::size_t>(omp_get_num_threads());
    const auto self = static_cast<std::size_t>(omp_get_thread_num());
    const std::size_t lines = bytes / kLine;
    body(lines * self / threads * kLine, lines * (self + 1) / threads * kLine);
  }
}

void stream_copy(const void* from, void* to, std::size_t bytes) {
  split(bytes, [&](std::size_t begin, std::size_t end) {
    for (std::size_t line = begin; line < end; line += kLine) {
      const float* a = static_cast<const float*>(from) + line / sizeof(float);
      float* b = static_cast<float*>(to) + line / sizeof(float);
      __builtin_prefetch(reinterpret_cast<const char*>(a) + kAhead);
      for (std::size_t i = 0; i < kLine / sizeof(float); i += Vector::lanes) {
        Vector::stream(b + i, Vector::load(a + i));
      }
    }
  });
}

void stream_add(const void* a, const void* b, void* to, std::size_t bytes) {
  split(bytes, [&](std::size_t begin, std::size_t end) {
    for (std::size_t line = begin; line < end; line += kLine) {
      const float* p = static_cast<const float*>(a) + line / sizeof(float);
      const float* q = static_cast<const float*>(b) + line / sizeof(float);
      float* r = static_cast<float*>(to) + line / sizeof(float);
      __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead);
      __builtin_prefetch(reinterpret_cast<const char*>(q) + kAhead);
      for (std::size_t i = 0; i < kLine / sizeof(float); i += Vector::lanes) {
        Vector::stream(r + i, Vector::add(Vector::load(p + i), Vector::load(q + i)));
      }
    }
  });
}

}  // namespace

Contender forward_copy(const Tensors& t) {
  return {"copy", [&t] { stream_copy(t.x.data(), t.y.data(), t.problem.bytes()); }};
}
Contender backward_copy(const Tensors& t) {
  return {"copy", [&t] { stream_add(t.dy.data(), t.x.data(), t.dx.data(), t.problem.bytes()); }};
}

}  // namespace bench
