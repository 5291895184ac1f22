// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "syncbn/export.h"

namespace syncbn {

/// Chooses the stream for the calls that this thread makes on a device's tensors while the object lives. The
/// stream belongs to the layer's device: for CUDA it is a cudaStream_t. Without such an object, and with
/// null, it is the device's default stream. Calls on the CPU have no stream.
class SYNCBN_API OnStream {
 public:
  explicit OnStream(void* stream);
  ~OnStream();
  OnStream(const OnStream&) = delete;
  OnStream& operator=(const OnStream&) = delete;

 private:
  void* before_;
};

}  // namespace syncbn
