// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/interrupt.h"
#include "base/rank_list.h"
#include "engines/threads.h"
#include "environment/launch_env.h"
#include "group/group.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "syncbn/threads.h"
#include "world/current_world.h"

namespace syncbn {
namespace {

// An exception is a cause, or an effect of another rank's exception. The caller must see the cause.
enum class Origin { own, maybe_own, peer };

Origin origin_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PeerError&) {
    return Origin::peer;
  } catch (const GroupError&) {  // a peer may have broken the group before
    return Origin::maybe_own;
  } catch (const TimeoutError&) {
    return Origin::maybe_own;
  } catch (...) {
    return Origin::own;
  }
}

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace

void run_ranks(int size, const std::function<void(int rank)>& body) {
  if (size < 1 || size > base::kMaxRanks)
    throw InvalidArgument(
        fmt::format("size: {}, expected a number of ranks in [1, {}]", size, base::kMaxRanks));
  if (!body) throw InvalidArgument("body: an empty function, expected one that takes the rank");
  const auto threads = std::make_shared<engines::ThreadWorld>(size);
  const base::TimeLimit limit = environment::call_limit();
  const int inner_threads = std::max(1, get_num_threads() / size);
  std::vector<std::exception_ptr> failed(static_cast<std::size_t>(size));

  std::mutex mutex;  // guards `ended`
  std::condition_variable changed;
  std::size_t ended = 0;

  const auto run = [&](int rank) {
    std::exception_ptr& error = failed[static_cast<std::size_t>(rank)];
    try {
      set_num_threads(inner_threads);
      world::set_thread_world(std::make_shared<world::World>(threads->engine(rank), limit));
      body(rank);
      threads->depart(rank, "has ended without this call");
    } catch (...) {
      error = std::current_exception();
      threads->depart(rank, "failed: " + text_of(error));
    }
    world::set_thread_world(nullptr);  // closes its groups
    const std::lock_guard lock(mutex);
    ++ended;
    changed.notify_one();
  };
  std::vector<std::thread> ranks;
  std::exception_ptr no_thread;
  for (int rank = 0; rank < size; ++rank) {
    try {
      ranks.emplace_back(run, rank);
    } catch (const std::exception& error) {  // the ranks that run must not wait for ranks that never start
      no_thread = std::current_exception();
      for (; rank < size; ++rank)
        threads->depart(rank, fmt::format("could not be started: {}", error.what()));
    }
  }
  bool interrupted = false;
  std::unique_lock lock(mutex);
  while (!changed.wait_until(lock, base::next_poll(Deadline::max()), [&] { return ended == ranks.size(); })) {
    lock.unlock();
    try {
      if (!interrupted) base::check_interrupt();
    } catch (const Interrupted&) {  // a waiting rank fails now, a computing rank at its next call
      interrupted = true;
      for (int rank = 0; rank < size; ++rank) threads->depart(rank, "was interrupted");
    }
    lock.lock();
  }
  lock.unlock();
  for (std::thread& rank : ranks) rank.join();

  if (interrupted) throw Interrupted();
  if (no_thread) std::rethrow_exception(no_thread);
  for (const Origin wanted : {Origin::own, Origin::maybe_own, Origin::peer}) {
    for (const std::exception_ptr& error : failed) {
      if (error && origin_of(error) == wanted) std::rethrow_exception(error);
    }
  }
}

}  // namespace syncbn
