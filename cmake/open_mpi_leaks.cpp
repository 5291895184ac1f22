// SPDX-License-Identifier: Apache-2.0

// In builds with the address sanitizer only: no leak check in a rank under mpirun. Open MPI 4.1 leaves some
// 3,000 blocks and unloads its plugins at the end, so its leaks can't be distinguished from
// syncbn's by their origin.
#include <cstdlib>

// LeakSanitizer asks this where a program has it, so it is visible. Weak: a program may get this file twice.
extern "C" [[gnu::weak, gnu::visibility("default")]] int __lsan_is_turned_off() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr ? 1 : 0;
}
