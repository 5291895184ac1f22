// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "oracle/number.h"

/// The oracle's sums and what statistics and gradients make of them, by big integers.
namespace oracle {

/// A sum of doubles or of products of two doubles, exact; or what the terms that are no numbers make of it.
class ExactSum {
 public:
  void add(double a);
  void add_product(double a, double b);
  bool special() const { return nan_ || plus_ || minus_; }
  double special_value() const;
  const Dyadic& exact() const { return total_; }
  double rounded(Type type = Type::float64) const;

 private:
  void add_special(double term);

  Dyadic total_;
  bool nan_ = false, plus_ = false, minus_ = false;
};

struct Statistics {
  double mean, var, var_unbiased;
};
/// Of `count` elements with s1 = Σx and s2 = Σx².
Statistics statistics_of(const ExactSum& s1, const ExactSum& s2, std::int64_t count);

/// fl64(B − mean·A)
double centred(const ExactSum& a, const ExactSum& b, double mean);

}  // namespace oracle
