// SPDX-License-Identifier: Apache-2.0
#include "kernels/loops.h"

#include "kernels/isa.h"
#include "kernels/reference.h"

namespace syncbn::kernels {

template <class Storage>
Loops<Storage> loops() {
  if (has_vector_code()) return {accumulate_part<Storage>, apply_tables().of<Storage>()};
  return {reference::accumulate, {reference::normalize<Storage>, reference::differentiate<Storage>}};
}
template Loops<float16> loops();
template Loops<bfloat16> loops();
template Loops<float> loops();
template Loops<double> loops();

}  // namespace syncbn::kernels
