// SPDX-License-Identifier: Apache-2.0
#include "syncbn/column.h"

#include <cstring>
#include <new>

namespace syncbn {

constinit const DeviceMemory kHostMemory{
    [](std::size_t bytes) { return ::operator new (bytes, std::align_val_t{64}); },
    [](void* memory) noexcept { ::operator delete (memory, std::align_val_t{64}); },
    [](void* to, const void* from, std::size_t bytes) {
      if (bytes > 0) std::memcpy(to, from, bytes);
    }};

}  // namespace syncbn
