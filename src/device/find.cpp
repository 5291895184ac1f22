// SPDX-License-Identifier: Apache-2.0
#include "device/find.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <mutex>
#include <string>

#include "device/device_kernels.h"
#include "syncbn/error.h"

namespace syncbn::device {
namespace {

// Throws if a device of CUDA can't be used here. A later call tries again.
void load_cuda() {
  static std::mutex mutex;
  static bool loaded = false;
  const std::lock_guard lock(mutex);
  if (loaded) return;
  const char* chosen = std::getenv("SYNCBN_CUDA_LIBRARY");
  const std::string name = chosen != nullptr ? chosen : "libsyncbn_cuda.so";
  const auto fail = [&](const std::string& why) {
    throw InvalidArgument(
        fmt::format("device: CUDA needs the library {}, which {}; build syncbn with SYNCBN_CUDA=ON, and set "
                    "SYNCBN_CUDA_LIBRARY to the library's path if the loader does not find it",
                    name, why));
  };
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(fmt::format("can't be loaded: {}", dlerror()));
  using GetApi = const Api* (*)();
  const auto get = reinterpret_cast<GetApi>(dlsym(library, "syncbn_device_api"));
  if (get == nullptr) fail("has no kernels of syncbn");
  const Api& api = *get();
  if (api.version != kApiVersion)
    fail(fmt::format("is of version {}, expected {}", api.version, kApiVersion));
  int devices = 0;
  if (const int code = api.count(&devices); code != 0)
    fail(fmt::format("finds no device: {} (code {})", api.describe(code), code));
  for (int i = 0; i < devices; ++i) add({Device::Type::cuda, static_cast<std::uint8_t>(i)}, "cuda", api, i);
  loaded = true;
}

}  // namespace

const kernels::DeviceEntry* find(Device device) {
  if (const kernels::DeviceEntry* known = kernels::find_device(device)) return known;
  if (device.type != Device::Type::cuda) return nullptr;
  load_cuda();
  return kernels::find_device(device);
}

}  // namespace syncbn::device
