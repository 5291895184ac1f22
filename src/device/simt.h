// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/convert.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SYNCBN_KERNEL __global__
#define SYNCBN_SIMT __device__ __forceinline__
#define SYNCBN_COLD __device__ __noinline__
#define SYNCBN_UNROLL _Pragma("unroll")
#else
#include <algorithm>
#include <functional>
#define SYNCBN_KERNEL inline
#define SYNCBN_SIMT inline
#define SYNCBN_COLD inline
#define SYNCBN_UNROLL
#endif

/// The operations of a GPU that kernels are written in. Under nvcc they are the GPU's own. Under another
/// compiler an executor has them, which runs the threads of a block as fibers (tests/device/executor.h). So
/// one source of a kernel runs on a GPU, and its bits are tested without one.
namespace syncbn::device::simt {

inline constexpr unsigned kWarp = 32;

struct Place {
  unsigned thread, threads;  ///< Of this thread in its block.
  unsigned block, blocks;
};

/// Some neighbouring elements, which one instruction loads or stores.
template <class Storage, int kCount>
struct alignas(sizeof(Storage) * kCount) Pack {
  Storage values[kCount];
};

#ifdef __CUDACC__

SYNCBN_SIMT Place here() { return {threadIdx.x, blockDim.x, blockIdx.x, gridDim.x}; }
/// Waits for all threads of the block. All of them must come.
SYNCBN_SIMT void barrier() { __syncthreads(); }
/// True if `mine` is true for any thread of the warp. As with all operations of a warp, all of its threads
/// must come.
SYNCBN_SIMT bool any(bool mine) { return __any_sync(0xffffffffu, mine); }
/// The value of the thread whose number in the warp differs in the bits of `mask`.
template <class T>
SYNCBN_SIMT T shuffle_xor(T mine, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, mine, static_cast<int>(mask));
}
SYNCBN_SIMT std::uint32_t max_of_warp(std::uint32_t mine) { return __reduce_max_sync(0xffffffffu, mine); }
SYNCBN_SIMT std::uint32_t min_of_warp(std::uint32_t mine) { return __reduce_min_sync(0xffffffffu, mine); }
SYNCBN_SIMT void atomic_add(std::int64_t* to, std::int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
SYNCBN_SIMT void atomic_or(std::int64_t* to, std::int64_t value) {
  atomicOr(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
SYNCBN_SIMT void atomic_min(std::int64_t* to, std::int64_t value) {
  atomicMin(reinterpret_cast<long long*>(to), static_cast<long long>(value));
}
/// Memory that the threads of a block share: one T for each type. It begins with any content.
template <class T>
SYNCBN_SIMT T& shared() {
  __shared__ alignas(16) unsigned char storage[sizeof(T)];
  return reinterpret_cast<T&>(storage);
}
/// Each rounds once; the compiler contracts none of them.
SYNCBN_SIMT float add(float a, float b) { return __fadd_rn(a, b); }
SYNCBN_SIMT double add(double a, double b) { return __dadd_rn(a, b); }
SYNCBN_SIMT float multiply(float a, float b) { return __fmul_rn(a, b); }
SYNCBN_SIMT double multiply(double a, double b) { return __dmul_rn(a, b); }
SYNCBN_SIMT float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SYNCBN_SIMT double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
template <class Storage>
SYNCBN_SIMT Storage narrow(kernels::Compute<Storage> value) {
  Storage result;
  if constexpr (std::is_same_v<Storage, bfloat16>) {
    result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  } else if constexpr (std::is_same_v<Storage, float16>) {
    result.bits = __half_as_ushort(__float2half_rn(value));
  } else {
    result = value;
  }
  return result;
}
/// Loads elements that are read once.
template <int kCount, class Storage>
SYNCBN_SIMT Pack<Storage, kCount> load(const Storage* from) {
  using Loaded = Pack<Storage, kCount>;
  if constexpr (sizeof(Loaded) == 16) {
    return std::bit_cast<Loaded>(__ldcs(reinterpret_cast<const uint4*>(from)));
  } else if constexpr (sizeof(Loaded) == 8) {
    return std::bit_cast<Loaded>(__ldcs(reinterpret_cast<const uint2*>(from)));
  } else {
    return *reinterpret_cast<const Loaded*>(from);
  }
}
template <class Storage, int kCount>
SYNCBN_SIMT void store(Storage* to, const Pack<Storage, kCount>& pack) {
  *reinterpret_cast<Pack<Storage, kCount>*>(to) = pack;
}

#else  // the executor's, in tests/device/executor.cpp

Place here();
void barrier();
const std::uint64_t* exchange(std::uint64_t mine);  ///< What each thread of the warp brings.
unsigned number_in_warp();
void* shared(const void* key, std::size_t bytes);
void run_blocks(unsigned blocks, unsigned threads, const std::function<void()>& body);
void check_aligned(const void* memory, std::size_t bytes);  ///< A misaligned access is a fault on a GPU.

inline std::uint32_t max_of_warp(std::uint32_t mine) {
  const std::uint64_t* all = exchange(mine);
  return static_cast<std::uint32_t>(*std::max_element(all, all + kWarp));
}
inline std::uint32_t min_of_warp(std::uint32_t mine) { return ~max_of_warp(~mine); }
inline bool any(bool mine) { return max_of_warp(mine ? 1 : 0) != 0; }
template <class T>
T shuffle_xor(T mine, unsigned mask) {
  return static_cast<T>(exchange(static_cast<std::uint64_t>(mine))[number_in_warp() ^ mask]);
}
inline void atomic_add(std::int64_t* to, std::int64_t value) {
  *to = static_cast<std::int64_t>(static_cast<std::uint64_t>(*to) + static_cast<std::uint64_t>(value));
}
inline void atomic_or(std::int64_t* to, std::int64_t value) { *to |= value; }
inline void atomic_min(std::int64_t* to, std::int64_t value) { *to = *to < value ? *to : value; }
template <class T>
T& shared() {
  static const char key = 0;
  return *static_cast<T*>(shared(&key, sizeof(T)));
}
template <class T>
T add(T a, T b) {
  return a + b;
}
template <class T>
T multiply(T a, T b) {
  return a * b;
}
template <class T>
T fma(T a, T b, T c) {
  return std::fma(a, b, c);
}
template <class Storage>
Storage narrow(kernels::Compute<Storage> value) {
  return kernels::narrow<Storage>(value);
}
template <int kCount, class Storage>
Pack<Storage, kCount> load(const Storage* from) {
  Pack<Storage, kCount> pack;
  check_aligned(from, sizeof pack);
  std::memcpy(static_cast<void*>(&pack), from, sizeof pack);
  return pack;
}
template <class Storage, int kCount>
void store(Storage* to, const Pack<Storage, kCount>& pack) {
  check_aligned(to, sizeof pack);
  std::memcpy(static_cast<void*>(to), &pack, sizeof pack);
}

#endif

template <class T>
SYNCBN_SIMT T sum_of_warp(T mine) {
  for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) mine += shuffle_xor(mine, mask);
  return mine;
}
SYNCBN_SIMT std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }
SYNCBN_SIMT float real(std::uint32_t bits) { return std::bit_cast<float>(bits); }

/// Starts a kernel on a stream. Returns a code of the device's runtime; 0: started. The stream is the
/// runtime's own; the executor has none, and runs the kernel at once.
template <class... Parameters, class... Arguments>
int launch(std::int64_t blocks, unsigned threads, void* stream, void (*kernel)(Parameters...),
           const Arguments&... arguments) {
#ifdef __CUDACC__
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
#else
  static_cast<void>(stream);
  run_blocks(static_cast<unsigned>(blocks), threads, [&] { kernel(arguments...); });
  return 0;
#endif
}

}  // namespace syncbn::device::simt
