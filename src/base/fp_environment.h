// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace syncbn::base {

/// Makes this thread round to nearest even and keep subnormals for the lifetime of the object, whatever
/// another library has set. The destructor restores the former settings and discards exception flags raised
/// meanwhile.
class FpEnvironment {
 public:
#if defined(__x86_64__) || defined(__i386__)
  FpEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }  // all masked, nearest even, no FTZ, no DAZ
  ~FpEnvironment() { _mm_setcsr(saved_); }
#else
  FpEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FpEnvironment() { std::fesetenv(&saved_); }
#endif
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
#if defined(__x86_64__) || defined(__i386__)
  unsigned int saved_;
#else
  std::fenv_t saved_;
#endif
};

}  // namespace syncbn::base
