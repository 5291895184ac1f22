// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "layer/harness.h"

/// Seeded batches, ordinary and nasty. The same numbers on every machine.
namespace syncbn::testing {

class Random {  // SplitMix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits();
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(limit));
  }
  bool chance(int one_in) { return below(one_in) == 0; }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  ///< In [0, 1).
  double normal();                                                          ///< Roughly; exact arithmetic.

 private:
  std::uint64_t state_;
};

enum class Kind {
  normal,
  offset,      ///< A large mean and a tiny variance.
  wide,        ///< Magnitudes over 60 binades, as far as the type has them.
  lognormal,   ///< Heavy tails.
  subnormal,   ///< Subnormals and zeros of both signs.
  huge,        ///< Near the largest number.
  cancelling,  ///< Each value and its negative: the sum is zero.
  constant,    ///< One value: the variance is zero.
  finite,      ///< Any bits but those of NaN and infinities.
  any,         ///< Any bits.
  sprinkled,   ///< Ordinary, with a NaN or an infinity in some channels.
};
inline constexpr Kind kKinds[] = {Kind::normal,    Kind::offset, Kind::wide,       Kind::lognormal,
                                  Kind::subnormal, Kind::huge,   Kind::cancelling, Kind::constant,
                                  Kind::finite,    Kind::any,    Kind::sprinkled};
const char* name_of(Kind kind);

/// Values of one channel over the whole batch.
std::vector<double> draw(Kind kind, oracle::Type type, std::size_t count, Random& random);
/// A tensor of each share (N, C, S), drawn channel by channel over all shares.
std::vector<std::vector<double>> draw_batch(Kind kind, const Case& c, Random& random);
/// x and dy of `c.shares`, and a residual where wanted.
void fill(Case& c, Kind kind, Kind dy_kind, bool residual, Random& random);
/// Parameters and running statistics; absent where not wanted.
void fill_state(Case& c, bool affine, bool track, Random& random);

}  // namespace syncbn::testing
