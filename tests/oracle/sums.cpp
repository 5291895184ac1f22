// SPDX-License-Identifier: Apache-2.0
#include "oracle/sums.h"

#include <cmath>
#include <limits>

namespace oracle {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void ExactSum::add(double a) {
  if (!std::isfinite(a)) return add_special(a);
  if (a != 0) total_ = total_ + dyadic(a);
}

void ExactSum::add_product(double a, double b) {
  if (!std::isfinite(a) || !std::isfinite(b)) return add_special(a * b);
  if (a != 0 && b != 0) total_ = total_ + dyadic(a) * dyadic(b);
}

void ExactSum::add_special(double term) {
  nan_ = nan_ || std::isnan(term);
  plus_ = plus_ || term == kInfinity;
  minus_ = minus_ || term == -kInfinity;
}

double ExactSum::special_value() const {
  if (nan_ || (plus_ && minus_)) return kNan;
  return plus_ ? kInfinity : -kInfinity;
}

double ExactSum::rounded(Type type) const { return special() ? special_value() : round_to(type, total_); }

Statistics statistics_of(const ExactSum& s1, const ExactSum& s2, std::int64_t count) {
  const auto n = static_cast<double>(count);
  Statistics s{};
  double m2 = kNan;
  if (s1.special() || s2.special()) {
    s.mean = s1.special() ? s1.special_value() : s1.rounded() / n;
  } else {
    s.mean = s1.rounded() / n;
    const Dyadic difference =
        Dyadic{mpz_class(static_cast<long>(count)), 0} * s2.exact() - s1.exact() * s1.exact();
    m2 = round_to(Type::float64, difference);
  }
  const double m2_n = m2 / n;
  s.var = m2_n / n;
  s.var_unbiased = m2_n / (n - 1);
  return s;
}

double centred(const ExactSum& a, const ExactSum& b, double mean) {
  if (a.special() || b.special() || !std::isfinite(mean)) {
    const double product = mean * a.rounded();
    return b.rounded() - product;
  }
  return round_to(Type::float64, b.exact() - dyadic(mean) * a.exact());
}

}  // namespace oracle
