// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <new>

#include "syncbn/column.h"

namespace syncbn {

constexpr DeviceMemory kHostMemory{
    [](std::size_t bytes) { return ::operator new (bytes, std::align_val_t{64}); },
    [](void* memory) noexcept { ::operator delete (memory, std::align_val_t{64}); },
    [](void* to, const void* from, std::size_t bytes) {
      std::copy_n(static_cast<const std::byte*>(from), bytes, static_cast<std::byte*>(to));
    }};

}  // namespace syncbn
