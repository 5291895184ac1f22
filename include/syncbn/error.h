// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

#include "syncbn/export.h"

namespace syncbn {

/// Base of all errors that the library throws on purpose. A failed call changes nothing in its layer.
class SYNCBN_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument of this rank is wrong, or every rank sees the same fault in the same sum (one element per
/// channel in training, non-finite statistics under Nonfinite::error). The message names the argument, its
/// value and what is allowed.
class SYNCBN_API InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The ranks of a group made different calls: another layer, order, channel count, dtype or option. Every
/// rank gets it. The message names who brought what. The group is broken afterwards.
class SYNCBN_API MismatchError : public Error {
 public:
  using Error::Error;
};

/// A peer failed before its call, died, or lost its connection. The group is broken afterwards.
class SYNCBN_API PeerError : public Error {
 public:
  using Error::Error;
};

/// No answer came by the deadline. The group is broken afterwards.
class SYNCBN_API TimeoutError : public Error {
 public:
  using Error::Error;
};

/// The group is unknown, destroyed, broken or not initialised, or the calling rank is not a member.
class SYNCBN_API GroupError : public Error {
 public:
  using Error::Error;
};

}  // namespace syncbn
