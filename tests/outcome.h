#pragma once

#include <functional>
#include <string>

#include "syncbn/error.h"

namespace syncbn::testing {

/// "ok", or the class and the message of the syncbn::Error that `call` throws.
inline std::string outcome(const std::function<void()>& call) {
  try {
    call();
    return "ok";
  } catch (const InvalidArgument& error) {
    return std::string("InvalidArgument: ") + error.what();
  } catch (const MismatchError& error) {
    return std::string("MismatchError: ") + error.what();
  } catch (const PeerError& error) {
    return std::string("PeerError: ") + error.what();
  } catch (const TimeoutError& error) {
    return std::string("TimeoutError: ") + error.what();
  } catch (const GroupError& error) {
    return std::string("GroupError: ") + error.what();
  }
}

}  // namespace syncbn::testing
