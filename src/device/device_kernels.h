// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/api.h"

/// Devices whose kernels another library has, behind the layer's door (kernels/kernels.h).
namespace syncbn::device {

/// Makes a device known. `index` is its number in the api. @throws InvalidArgument no room for another device
void add(Device device, const char* name, const Api& api, int index);

/// The stream of the calling thread's kernels while it lives. Without one it is the device's default stream.
class OnStream {
 public:
  explicit OnStream(void* stream);
  ~OnStream();
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  void* before_;
};

}  // namespace syncbn::device
