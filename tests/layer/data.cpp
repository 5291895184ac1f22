// SPDX-License-Identifier: Apache-2.0
#include "layer/data.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace syncbn::testing {
namespace {

struct Range {
  int min_exponent, max_exponent, precision;
};
Range range_of(oracle::Type type) {
  switch (type) {
    case oracle::Type::float16:
      return {-14, 15, 11};
    case oracle::Type::bfloat16:
      return {-126, 127, 8};
    case oracle::Type::float32:
      return {-126, 127, 24};
    default:
      return {-1022, 1023, 53};
  }
}

double sign(Random& random) { return random.chance(2) ? 1.0 : -1.0; }

double any_value(oracle::Type type, Random& random) {
  return oracle::decode(type, random.bits() >> (64 - oracle::bits_of(type)));
}

double one(Kind kind, oracle::Type type, Random& random) {
  const Range range = range_of(type);
  switch (kind) {
    case Kind::offset:
      return 10000.0 + random.normal() * std::ldexp(1.0, 16 - range.precision);
    case Kind::wide: {
      const int reach = std::min(60, range.max_exponent - range.min_exponent - 3);
      return random.normal() * std::ldexp(1.0, static_cast<int>(random.below(reach)) - reach / 2);
    }
    case Kind::lognormal: {
      // 2^(5·normal) without std::exp2, whose last bit is the C library's own.
      const double exponent = std::clamp(5 * random.normal(), -13.0, 13.0);
      const double whole = std::floor(exponent);
      return sign(random) * std::ldexp(1 + (exponent - whole), static_cast<int>(whole));
    }
    case Kind::subnormal: {
      const int quantum = range.min_exponent - range.precision + 1;
      const std::int64_t limit = random.chance(2) ? 4 : std::int64_t{1} << (range.precision - 1);
      return sign(random) * std::ldexp(static_cast<double>(random.below(limit)), quantum);
    }
    case Kind::huge:
      return sign(random) *
             std::ldexp(1 + random.uniform() * 0.99, range.max_exponent - static_cast<int>(random.below(2)));
    default:
      return random.normal();
  }
}

}  // namespace

std::uint64_t Random::bits() {
  std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Random::normal() {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(bits() >> 24) * 0x1p-40;
  return sum;
}

const char* name_of(Kind kind) {
  static constexpr const char* names[] = {"normal",    "offset", "wide",       "lognormal",
                                          "subnormal", "huge",   "cancelling", "constant",
                                          "finite",    "any",    "sprinkled"};
  return names[static_cast<int>(kind)];
}

std::vector<double> draw(Kind kind, oracle::Type type, std::size_t count, Random& random) {
  std::vector<double> values(count);
  if (kind == Kind::constant) {
    std::ranges::fill(values, oracle::round_to(type, random.normal()));
  } else if (kind == Kind::any || kind == Kind::finite) {
    for (double& value : values) {
      do value = any_value(type, random);
      while (kind == Kind::finite && !std::isfinite(value));
    }
  } else if (kind == Kind::cancelling) {
    for (std::size_t i = 0; i + 1 < count; i += 2) {
      values[i] = oracle::round_to(type, one(Kind::wide, type, random));
      values[i + 1] = -values[i];
    }
    for (std::size_t i = count; i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
    }
  } else {
    for (double& value : values) value = oracle::round_to(type, one(kind, type, random));
    if (kind == Kind::sprinkled && !random.chance(4)) {
      constexpr double inf = std::numeric_limits<double>::infinity();
      const double odd[] = {inf, -inf, std::numeric_limits<double>::quiet_NaN()};
      for (std::int64_t k = random.below(3); k >= 0 && count != 0; --k) {
        values[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(count)))] =
            odd[random.below(3)];
      }
    }
  }
  return values;
}

std::vector<std::vector<double>> draw_batch(Kind kind, const Case& c, Random& random) {
  std::vector<std::vector<double>> tensors;
  std::int64_t count = 0;
  for (const oracle::Share& share : c.shares) {
    tensors.emplace_back(static_cast<std::size_t>(share.samples * c.channels * share.places));
    count += share.samples * share.places;
  }
  for (std::int64_t channel = 0; channel < c.channels; ++channel) {
    const std::vector<double> values = draw(kind, c.settings.input, static_cast<std::size_t>(count), random);
    std::size_t next = 0;
    for (std::size_t r = 0; r < c.shares.size(); ++r) {
      const oracle::Share& share = c.shares[r];
      for (std::int64_t n = 0; n < share.samples; ++n) {
        const auto row = static_cast<std::size_t>((n * c.channels + channel) * share.places);
        for (std::size_t s = 0; s < static_cast<std::size_t>(share.places); ++s)
          tensors[r][row + s] = values[next++];
      }
    }
  }
  return tensors;
}

void fill(Case& c, Kind kind, Kind dy_kind, bool residual, Random& random) {
  const auto x = draw_batch(kind, c, random);
  const auto dy = draw_batch(dy_kind, c, random);
  const auto added = draw_batch(Kind::normal, c, random);
  for (std::size_t r = 0; r < c.shares.size(); ++r) {
    c.shares[r].x = x[r];
    c.shares[r].dy = dy[r];
    c.shares[r].residual = residual ? added[r] : std::vector<double>();
  }
}

void fill_state(Case& c, bool affine, bool track, Random& random) {
  const auto channels = static_cast<std::size_t>(c.channels);
  const oracle::Type type = c.settings.parameters;
  c.state = {};
  if (affine) {
    c.state.weight = draw(Kind::normal, type, channels, random);
    c.state.bias = draw(Kind::normal, type, channels, random);
  }
  if (track) {
    c.state.running_mean = draw(random.chance(3) ? Kind::finite : Kind::normal, type, channels, random);
    c.state.running_var = draw(random.chance(3) ? Kind::finite : Kind::normal, type, channels, random);
    for (double& var : c.state.running_var) var = std::fabs(var);
    c.state.batches_tracked = random.below(10);
  }
}

}  // namespace syncbn::testing
