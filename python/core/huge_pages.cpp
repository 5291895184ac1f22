// SPDX-License-Identifier: Apache-2.0
#include "huge_pages.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "addresses.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

// Asks the system to map new memory, nothing of it written yet, by pages of 2 MiB where whole ones fit in. A
// system that can't leaves the memory as it is.
void prefer_huge_pages(std::uintptr_t address, std::size_t bytes) {
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const std::uintptr_t first = (address + page - 1) / page * page;
  const std::uintptr_t end = (address + bytes) / page * page;
  if (first < end) ::madvise(at(first), end - first, MADV_HUGEPAGE);
}

}  // namespace

void bind_huge_pages(nb::module_& module) {
  module.def("prefer_huge_pages", &prefer_huge_pages, "address"_a, "bytes"_a);
}

}  // namespace syncbn::python
