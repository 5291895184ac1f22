// SPDX-License-Identifier: Apache-2.0
#include "kernels/reference.h"

#include "exact/parts.h"

namespace syncbn::kernels::reference {
void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                exact::Records records) {
  const int unit = records.format().unit;
  records.clear(part.channels);
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    const auto load = [](const Operand& operand, std::int64_t offset) {
      const auto value = static_cast<double>(widen(static_cast<const Storage*>(operand.values)[offset]));
      if (operand.mask == nullptr) return value;
      return passes(widen(static_cast<const Storage*>(operand.mask)[offset])) ? value : 0.0;
    };
    for (std::int64_t c = part.channel; c < part.channel + part.channels; ++c) {
      const exact::Record record = records[c - part.channel];
      int adds = 0;
      for (std::int64_t position = part.begin; position < part.end; ++position) {
        const std::int64_t offset = geometry.offset(c, position);
        const double x = load(a, offset);
        const double y = load(b, offset);
        if (!std::isfinite(x)) record.flag_sum(x);
        if (!std::isfinite(x) || !std::isfinite(y)) record.flag_product(x * y);
        if (!std::isfinite(x)) continue;
        const exact::Parts p = exact::odd_parts_of(x);
        if (p.significand == 0) continue;
        exact::add_scaled(record.sum(), p.significand, p.exponent - unit);
        if (++adds >= exact::kAddsBeforeCarry / 2) {  // a product takes two additions
          record.propagate_carries();
          adds = 0;
        }
        if (!std::isfinite(y)) continue;
        const exact::Parts q = exact::odd_parts_of(y);
        // Up to 106 bits, in two parts of one sign.
        const __int128 product = static_cast<__int128>(p.significand) * q.significand;
        const int shift = p.exponent + q.exponent - 2 * unit;
        const auto upper = static_cast<std::int64_t>(product / (std::int64_t{1} << 53));
        const auto lower = static_cast<std::int64_t>(product % (std::int64_t{1} << 53));
        exact::add_scaled(record.product(), lower, shift);
        exact::add_scaled(record.product(), upper, shift + 53);
      }
      record.propagate_carries();
    }
  });
}

}  // namespace syncbn::kernels::reference
