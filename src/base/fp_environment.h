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
  // Settings that stay are not written again: writing waits for all arithmetic before it.
  FpEnvironment() : saved_(_mm_getcsr()) {
    if ((saved_ & ~kFlags) != kSettings) _mm_setcsr(kSettings);
  }
  ~FpEnvironment() {
    if (_mm_getcsr() != saved_) _mm_setcsr(saved_);
  }
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
  static constexpr unsigned int kFlags = 0x3f;
  static constexpr unsigned int kSettings = 0x1f80;  // all masked, nearest even, no FTZ, no DAZ
  unsigned int saved_;
#else
  std::fenv_t saved_;
#endif
};

}  // namespace syncbn::base
