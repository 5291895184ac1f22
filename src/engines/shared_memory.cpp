// SPDX-License-Identifier: Apache-2.0
#include "engines/shared_memory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

[[noreturn]] void throw_system_error(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

// Allocates all pages. A machine without this much memory refuses here. Without the call it would kill a
// process at first use.
void allocate(int file, std::size_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes)  // the kernel would send SIGXFSZ
    throw std::system_error(EFBIG, std::generic_category(), "posix_fallocate");
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(file, 0, static_cast<off_t>(bytes));
  if (error != 0) throw std::system_error(error, std::generic_category(), "posix_fallocate");
}

base::Fd create_file(std::size_t bytes) {
  base::Fd file(memfd_create("syncbn", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (file.get() < 0) throw_system_error("memfd_create");
  allocate(file.get(), bytes);
  if (fcntl(file.get(), F_ADD_SEALS, kSizeSeals | F_SEAL_SEAL) != 0) throw_system_error("F_ADD_SEALS");
  return file;
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes) : file_(create_file(bytes)), bytes_(bytes) { map(); }

SharedMemory::SharedMemory(base::Fd file, std::size_t bytes) : file_(std::move(file)), bytes_(bytes) {
  const int seals = fcntl(file_.get(), F_GET_SEALS);
  if (seals < 0) throw_system_error("F_GET_SEALS");
  if ((seals & kSizeSeals) != kSizeSeals) throw PeerError("the size of a peer's memory is not sealed");
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) throw_system_error("fstat");
  if (std::cmp_not_equal(status.st_size, bytes_))
    throw PeerError(fmt::format("a peer's memory has {} bytes, expected {}", status.st_size, bytes_));
  map();
}

SharedMemory::~SharedMemory() {
  // In a fork the memory is not mapped, and something else may lie at its address.
  if (!forks_.inherited()) munmap(data_, bytes_);
}

void SharedMemory::map() {
  void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (data == MAP_FAILED) throw_system_error("mmap");
  data_ = static_cast<std::byte*>(data);
  if (madvise(data, bytes_, MADV_DONTFORK) == 0) return;
  const int error = errno;
  munmap(data, bytes_);
  throw std::system_error(error, std::generic_category(), "MADV_DONTFORK");
}

}  // namespace syncbn::engines
