#include "kernels/reference.h"

#include <bit>

#include "exact/exact_sum.h"

namespace syncbn::kernels::reference {
namespace {

// value = significand · 2^exponent, an odd significand or zero.
struct Parts {
  std::int64_t significand;
  int exponent;
};
Parts parts_of(double value) {
  int exponent = 0;
  const auto significand = static_cast<std::int64_t>(std::ldexp(std::frexp(value, &exponent), 53));
  if (significand == 0) return {0, 0};
  const int zeros = std::countr_zero(static_cast<std::uint64_t>(significand));
  return {significand >> zeros, exponent - 53 + zeros};
}

}  // namespace

void accumulate(const Operand& a, const Operand& b, const Geometry& geometry, const Part& part,
                std::int64_t* records) {
  const exact::SumFormat& format = exact::sum_format(geometry.dtype);
  with_storage(geometry.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    const auto load = [](const Operand& operand, std::int64_t offset) {
      const auto value = static_cast<double>(widen(static_cast<const Storage*>(operand.values)[offset]));
      if (operand.mask == nullptr) return value;
      return passes(widen(static_cast<const Storage*>(operand.mask)[offset])) ? value : 0.0;
    };
    for (std::int64_t c = part.channel; c < part.channel + part.channels; ++c) {
      std::int64_t* record = records + (c - part.channel) * format.words();
      std::int64_t* products = record + format.sum_digits;
      int adds = 0;
      for (std::int64_t position = part.begin; position < part.end; ++position) {
        const std::int64_t offset = geometry.offset(c, position);
        const double x = load(a, offset);
        const double y = load(b, offset);
        if (!std::isfinite(x)) record[format.sum_flags()] |= exact::flag_of(x);
        if (!std::isfinite(x) || !std::isfinite(y)) record[format.product_flags()] |= exact::flag_of(x * y);
        if (!std::isfinite(x)) continue;
        const Parts p = parts_of(x);
        if (p.significand == 0) continue;
        exact::add_scaled(record, p.significand, p.exponent - format.unit);
        if (++adds >= exact::kAddsBeforeNormalise / 2) {  // a product takes two additions
          exact::normalise(record, format);
          adds = 0;
        }
        if (!std::isfinite(y)) continue;
        const Parts q = parts_of(y);
        // Up to 106 bits, in two parts of one sign.
        const __int128 product = static_cast<__int128>(p.significand) * q.significand;
        const int shift = p.exponent + q.exponent - 2 * format.unit;
        const auto upper = static_cast<std::int64_t>(product / (std::int64_t{1} << 53));
        const auto lower = static_cast<std::int64_t>(product % (std::int64_t{1} << 53));
        exact::add_scaled(products, lower, shift);
        exact::add_scaled(products, upper, shift + 53);
      }
      exact::normalise(record, format);
    }
  });
}

}  // namespace syncbn::kernels::reference
