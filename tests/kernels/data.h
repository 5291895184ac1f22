// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/convert.h"
#include "syncbn/isa.h"

/// What the kernel tests share: a forced instruction set, and seeded numbers of each storage type.
namespace syncbn::kernels {

/// As long as it lives, the kernels run on this instruction set.
class ForcedIsa {
 public:
  explicit ForcedIsa(const std::string& name) { force_isa(name); }
  ~ForcedIsa() { force_isa(std::nullopt); }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
};

/// Those with vector code: the scalar one is the reference itself.
inline std::vector<std::string> vector_isas() {
  std::vector<std::string> names = available_isas();
  names.pop_back();
  return names;
}

enum class Kind {
  ordinary,
  any,        ///< Any bits, but NaN and infinities.
  huge,       ///< Near the largest number, of both signs.
  positive,   ///< The largest number, always.
  subnormal,  ///< Subnormals and zeros of both signs.
  special,    ///< Ordinary and tiny, here and there a NaN or an infinity.
};
inline constexpr Kind kKinds[] = {Kind::ordinary, Kind::any,       Kind::huge,
                                  Kind::positive, Kind::subnormal, Kind::special};

template <class Storage>
Storage draw(Kind kind, std::mt19937_64& random) {
  using T = Compute<Storage>;
  const auto from_bits = [](std::uint64_t pattern) {
    Storage value;
    std::memcpy(static_cast<void*>(&value), &pattern, sizeof value);  // little endian
    return value;
  };
  const std::uint64_t noise = random();
  const auto uniform = static_cast<T>(static_cast<double>(noise >> 11) * 0x1p-53 - 0.5);
  const Storage infinity = narrow<Storage>(std::numeric_limits<T>::infinity());
  std::uint64_t above = 0;
  std::memcpy(&above, &infinity, sizeof infinity);
  const std::uint64_t sign = (noise & 1) << (8 * sizeof(Storage) - 1);
  const std::uint64_t smallest_normal = sizeof(Storage) == 8               ? std::uint64_t{1} << 52
                                        : sizeof(Storage) == 4             ? std::uint64_t{1} << 23
                                        : std::is_same_v<Storage, float16> ? 0x400
                                                                           : 0x80;
  switch (kind) {
    case Kind::ordinary:
      break;
    case Kind::any:
      return from_bits(sign | (noise >> 1) % above);
    case Kind::huge:
      return from_bits(sign | (above - 1 - (noise >> 1) % 4));
    case Kind::positive:
      return from_bits(above - 1);
    case Kind::subnormal:
      return from_bits(sign | (noise >> 1) % smallest_normal);
    case Kind::special:
      if (noise % 50 == 0) return from_bits(sign | above);
      if (noise % 50 == 1) return narrow<Storage>(std::numeric_limits<T>::quiet_NaN());
      if (noise % 3 == 0) return from_bits(sign | (noise >> 1) % smallest_normal);
      break;
  }
  return narrow<Storage>(uniform);
}

template <class Storage>
Storage zero(bool negative) {
  return narrow<Storage>(negative ? -Compute<Storage>{0} : Compute<Storage>{0});
}
template <class Storage>
Storage nan() {
  return narrow<Storage>(std::numeric_limits<Compute<Storage>>::quiet_NaN());
}

template <class Storage>
std::vector<Storage> draw(Kind kind, std::size_t count, std::mt19937_64& random) {
  std::vector<Storage> values(count);
  for (Storage& value : values) value = draw<Storage>(kind, random);
  return values;
}

/// For comparisons: the bits, one pattern for all NaNs.
template <class Storage>
std::uint64_t bits(Storage value) {
  if (widen(value) != widen(value)) return ~std::uint64_t{0};
  std::uint64_t pattern = 0;
  std::memcpy(&pattern, &value, sizeof value);
  return pattern;
}
template <class Storage, class Allocator>
std::vector<std::uint64_t> bits(const std::vector<Storage, Allocator>& values) {
  std::vector<std::uint64_t> patterns;
  for (const Storage value : values) patterns.push_back(bits(value));
  return patterns;
}

}  // namespace syncbn::kernels
