// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/apply_rows.h"
#include "kernels/types.h"

namespace syncbn::kernels {

/// The faster way to write tensors of this size, of which `channels` are written at a time.
Write write_for(const Geometry& geometry, std::int64_t channels);

/// y = relu(fma(x − mean_hi, k, shift) + residual); residual and ReLU if wanted. Of a part, on this thread
/// alone.
template <class Storage>
void normalize(const ApplyLoops<Storage>& loops, const NormalizeTensors& t, const Geometry& geometry,
               const Part& part, const ForwardColumns<Compute<Storage>>& c, bool relu, Write write);
/// dx and d_residual, each if not null.
template <class Storage>
void differentiate(const ApplyLoops<Storage>& loops, const GradientTensors& t, const Geometry& geometry,
                   const Part& part, const BackwardColumns<Compute<Storage>>& c, bool of_batch, Write write);

/// The same for the whole batch, in parallel.
template <class Storage>
void normalize(const ApplyLoops<Storage>& loops, const NormalizeTensors& t, const Geometry& geometry,
               const ForwardColumns<Compute<Storage>>& c, bool relu);
template <class Storage>
void differentiate(const ApplyLoops<Storage>& loops, const GradientTensors& t, const Geometry& geometry,
                   const BackwardColumns<Compute<Storage>>& c, bool of_batch);

}  // namespace syncbn::kernels
