#pragma once

#include <cstdint>

#include "syncbn/sync_batch_norm.h"

/// What a call is checked for before it touches anything. All throw InvalidArgument that names the argument,
/// its value and what is allowed.
namespace syncbn::layer {

void check_options(std::int64_t num_features, const SyncBatchNormOptions& options);
void check_forward(const ForwardTensors& tensors, std::int64_t num_features);
/// `relu`: y is needed.
void check_backward(const BackwardTensors& tensors, std::int64_t num_features, bool relu);
void check_double_backward(const DoubleBackwardTensors& tensors, std::int64_t num_features, bool relu);
void check_saved(const Saved& saved, std::int64_t num_features);
/// That backward is given as many elements per channel as forward was, as far as the Saved can tell.
void check_count(const Saved& saved, std::int64_t positions);

}  // namespace syncbn::layer
