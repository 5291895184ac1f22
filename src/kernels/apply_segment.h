#pragma once

#include <cstddef>

#include "kernels/apply.h"

/// The vector code of apply: one run of floats.
namespace syncbn::kernels {

void normalize_segment(const float* x, const float* residual, float* y, std::size_t n,
                       const NormalizeSegment<float>& coefficients);
void differentiate_segment(const float* dy, const float* x, const float* y, float* dx, float* d_residual,
                           std::size_t n, const GradientSegment<float>& coefficients);

}  // namespace syncbn::kernels
