// SPDX-License-Identifier: Apache-2.0

// Prints, for each class of error and each way through the libraries, the class that a handler here sees.
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "syncbn/syncbn.h"
#include "thrower.h"

namespace {

struct Caught {
  std::string name, what;
};

Caught caught(const std::function<void()>& body) {
  try {
    body();
  } catch (const syncbn::InvalidArgument& error) {
    return {"InvalidArgument", error.what()};
  } catch (const syncbn::MismatchError& error) {
    return {"MismatchError", error.what()};
  } catch (const syncbn::PeerError& error) {
    return {"PeerError", error.what()};
  } catch (const syncbn::TimeoutError& error) {
    return {"TimeoutError", error.what()};
  } catch (const syncbn::GroupError& error) {
    return {"GroupError", error.what()};
  } catch (const syncbn::Error& error) {
    return {"Error", error.what()};
  } catch (const syncbn::Interrupted&) {
    return {"Interrupted", ""};
  } catch (const std::exception& error) {
    return {"another", error.what()};
  }
  return {"none", ""};
}

int wrong = 0;
void expect(const std::string& way, const std::string& name, const Caught& caught,
            const std::string& start = "") {
  std::printf("%s: %s arrives as %s (%s)\n", way.c_str(), name.c_str(), caught.name.c_str(),
              caught.what.c_str());
  if (caught.name != name || !caught.what.starts_with(start)) ++wrong;
}

// Through the library, whose own handlers tell the classes apart: they add the group to four of them.
void train_with(const std::string& error) {
  syncbn::SyncBatchNormOptions options;
  options.process_group = syncbn::make_group("custom", engine_with_error(error));
  syncbn::SyncBatchNorm layer(1, options);
  const std::vector<float> x{1, 2};
  std::vector<float> y(2);
  layer.forward({.x = syncbn::view(x, {2, 1}), .y = syncbn::view(y, {2, 1})});
}

}  // namespace

int main() {
  for (const std::string name : {"Error", "InvalidArgument", "MismatchError", "PeerError", "TimeoutError",
                                 "GroupError", "Interrupted"}) {
    const bool has_text = name != "Interrupted";
    expect("from a library", name, caught([&] { throw_error(name); }), has_text ? "thrown" : "");
    expect("through run_ranks", name, caught([&] { syncbn::run_ranks(1, [&](int) { throw_error(name); }); }),
           has_text ? "thrown" : "");
    const bool of_group = has_text && name != "Error" && name != "InvalidArgument";
    expect("from an engine", name, caught([&] { train_with(name); }), of_group ? "group 'custom'" : "");
  }
  expect("from syncbn", "InvalidArgument", caught([] { syncbn::SyncBatchNorm layer(0); }), "num_features");
  expect("from syncbn", "GroupError", caught([] { syncbn::destroy_group("none"); }), "destroy_group");
  // Control: an error of no class of the library is none of them.
  expect("control", "another", caught([] { throw_error("std::logic_error"); }));
  std::printf("%d wrong\n", wrong);
  return wrong == 0 ? 0 : 1;
}
