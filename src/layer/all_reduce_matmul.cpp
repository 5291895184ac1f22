// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include "base/fp_environment.h"
#include "device/find.h"
#include "exact/value_row.h"
#include "kernels/kernels.h"
#include "layer/checks.h"
#include "layer/row_sums.h"
#include "syncbn/group.h"
#include "world/resolve_group.h"

namespace syncbn {

void all_reduce_matmul(const ConstTensorView& a, const ConstTensorView& b, const TensorView& c,
                       std::string_view name) {
  const base::FpEnvironment environment;
  const auto group = world::resolve_group(name);
  const std::int64_t a_columns = a.shape.channels(), b_columns = b.shape.channels();
  const auto call = [&](std::size_t first, std::size_t products) {
    return kernels::MatmulCall{a.dtype,
                               a.shape.samples(),
                               a_columns,
                               b_columns,
                               a.data,
                               b.data,
                               c.data,
                               static_cast<std::int64_t>(first),
                               static_cast<std::int64_t>(products)};
  };
  const kernels::DeviceEntry* const device = device::find(a.device);  // null: the check throws
  layer::sum_rows(
      *group,
      {"all_reduce_matmul", fmt::format("columns={}x{}, type={}", a_columns, b_columns, name_of(a.dtype))},
      static_cast<std::size_t>(a_columns) * static_cast<std::size_t>(b_columns),
      exact::value_row_words(exact::product_rows(exact::sum_format(a.dtype))),
      [&] { layer::check_matmul(a, b, c); },
      [&](std::size_t first, std::size_t count, std::span<std::int64_t> message) {
        device->kernels(a.dtype).accumulate(call(first, count), message);
      },
      [&](std::size_t first, std::size_t count, std::span<const std::int64_t> message) {
        device->kernels(a.dtype).round(call(first, count), message);
      });
}

}  // namespace syncbn
