// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Stands before functions that CUDA kernels call, too. Other compilers see nothing of it.
#ifdef __CUDACC__
#define SYNCBN_DEVICE __host__ __device__
#else
#define SYNCBN_DEVICE
#endif
