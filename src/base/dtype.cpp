// SPDX-License-Identifier: Apache-2.0
#include "syncbn/dtype.h"

#include "base/format16.h"

namespace syncbn {
float16::float16(double value) : bits(base::encode(value, base::half_format())) {}
float16::operator double() const { return base::decode(bits, base::half_format()); }
bfloat16::bfloat16(double value) : bits(base::encode(value, base::brain_format())) {}
bfloat16::operator double() const { return base::decode(bits, base::brain_format()); }

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return "float16";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float32:
      return "float32";
    case DType::float64:
      return "float64";
  }
  return "unknown dtype";
}

}  // namespace syncbn
