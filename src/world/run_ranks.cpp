#include <fmt/format.h>

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
#include "engines/threads.h"
#include "environment/launch_env.h"
#include "group/group.h"
#include "syncbn/error.h"
#include "syncbn/group.h"
#include "syncbn/threads.h"
#include "world/world.h"

namespace syncbn {
namespace {

// How likely an exception is the effect of another rank's: the cause is what the caller must see.
enum class Blame { own, maybe_own, of_a_peer };

Blame blame(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const PeerError&) {
    return Blame::of_a_peer;
  } catch (const GroupError&) {  // of a group that a peer broke before, perhaps
    return Blame::maybe_own;
  } catch (const TimeoutError&) {
    return Blame::maybe_own;
  } catch (...) {
    return Blame::own;
  }
}

std::string what(const std::exception_ptr& error) {
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
  if (size < 1 || size > kMaxRanks)
    throw InvalidArgument(fmt::format("size: {}, expected a number of ranks in [1, {}]", size, kMaxRanks));
  if (!body) throw InvalidArgument("body: an empty function, expected one that takes the rank");
  const auto threads = std::make_shared<engines::ThreadWorld>(size);
  const auto timeout = environment::read_timeout();
  const int inner_threads = std::max(1, get_num_threads() / size);
  std::vector<std::exception_ptr> failed(static_cast<std::size_t>(size));

  std::mutex mutex;  // guards ended
  std::condition_variable changed;
  std::size_t ended = 0;

  const auto run = [&](int rank) {
    std::exception_ptr& error = failed[static_cast<std::size_t>(rank)];
    try {
      set_num_threads(inner_threads);
      World::set_of_thread(std::make_shared<World>(threads->engine(rank), timeout));
      body(rank);
      threads->leave(rank, "has ended without this call");
    } catch (...) {
      error = std::current_exception();
      threads->leave(rank, "failed: " + what(error));
    }
    World::set_of_thread(nullptr);  // closes its groups
    const std::lock_guard lock(mutex);
    ++ended;
    changed.notify_one();
  };
  std::vector<std::thread> ranks;
  std::exception_ptr no_thread;
  for (int rank = 0; rank < size; ++rank) {
    try {
      ranks.emplace_back(run, rank);
    } catch (const std::exception& error) {  // those that run must not wait for those that never will
      no_thread = std::current_exception();
      for (; rank < size; ++rank) threads->leave(rank, fmt::format("could not be started: {}", error.what()));
    }
  }
  bool interrupted = false;
  std::unique_lock lock(mutex);
  while (!changed.wait_until(lock, base::next_look(Deadline::max()), [&] { return ended == ranks.size(); })) {
    lock.unlock();
    try {
      if (!interrupted) base::check_interrupt();
    } catch (const Interrupted&) {  // who waits for a peer fails now, who computes at its next call
      interrupted = true;
      for (int rank = 0; rank < size; ++rank) threads->leave(rank, "was interrupted");
    }
    lock.lock();
  }
  lock.unlock();
  for (std::thread& rank : ranks) rank.join();

  if (interrupted) throw Interrupted();
  if (no_thread) std::rethrow_exception(no_thread);
  for (const Blame wanted : {Blame::own, Blame::maybe_own, Blame::of_a_peer}) {
    for (const std::exception_ptr& error : failed) {
      if (error && blame(error) == wanted) std::rethrow_exception(error);
    }
  }
}

}  // namespace syncbn
