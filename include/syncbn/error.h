#pragma once

#include <stdexcept>
#include <string>

namespace syncbn {

/// Root of everything this library throws on purpose. A failed call changes no state of the layer it was made
/// on.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// This rank's own argument is wrong, or every rank sees the same fault in the same sum (total count 1,
/// non-finite statistics under Nonfinite::error). The message names the argument, its value and what is
/// allowed.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The ranks of a group made different calls: another layer, order, channel count, dtype or option.
/// Thrown on every rank, naming who brought what. The group is broken afterwards.
class MismatchError : public Error {
 public:
  using Error::Error;
};

/// A peer failed before its call, died, or its connection broke. The group is broken afterwards.
class PeerError : public Error {
 public:
  using Error::Error;
};

/// Nothing arrived by the deadline. The group is broken afterwards.
class TimeoutError : public Error {
 public:
  using Error::Error;
};

/// The group is unknown, destroyed, broken or not initialised, or this rank is no member of it.
class GroupError : public Error {
 public:
  using Error::Error;
};

}  // namespace syncbn
