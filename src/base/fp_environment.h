#pragma once

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace syncbn::base {

/// While it lives, this thread rounds to nearest even and keeps subnormals, whatever another library set;
/// then its former settings return. Exceptions flags raised in between are dropped with it.
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
