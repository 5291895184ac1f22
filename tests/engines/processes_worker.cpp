// SPDX-License-Identifier: Apache-2.0

// One rank of a job of real processes. It joins the world that its environment describes, does what the
// argument says and reports in lines that begin with its rank. An expected error is a line, not an exit code;
// with a second argument, "strict", it ends the process at once with exit code 1, as it ends most programs.
#include <fmt/core.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "syncbn/syncbn.h"

namespace {

using namespace syncbn;

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print("rank {}: {}\n", get_rank(), fmt::format(format, std::forward<Args>(args)...));
  std::fflush(stdout);
}

void wait_for_order() {  // the driver closes our input
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

bool is_last() { return get_rank() == get_group_size() - 1; }

std::vector<int> all_ranks() {
  std::vector<int> ranks(static_cast<std::size_t>(get_group_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

// Quarters, so that every sum is exact whatever the order.
void sum(std::size_t count, std::string_view group = kWorldGroup) {
  const int size = get_group_size(group);
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = (get_rank(group) + 1) * (static_cast<double>(i) + 0.25);
  all_reduce_sum(values, group);
  for (std::size_t i = 0; i < count; ++i) {
    const double expected = size * (size + 1) / 2 * (static_cast<double>(i) + 0.25);
    if (values[i] != expected)
      throw std::logic_error(
          fmt::format("wrong sum in group {}: {}, expected {}", group, values[i], expected));
  }
}

void sums() {
  for (const std::size_t count : {1u, 3u, 64u, 1000u, 20000u, 1u, 1000u}) sum(count);
  say("of {}, sums are right, local rank {} of {}", get_group_size(), get_local_rank(),
      get_local_rank_size());
}

void place() { say("of {}, local rank {} of {}", get_group_size(), get_local_rank(), get_local_rank_size()); }

// Each connects and sums on its own thread, again and again.
void two_groups_at_once() {
  const auto work = [](const std::string& name, const std::vector<int>& ranks, std::size_t count) {
    for (int round = 0; round < 20; ++round) {
      create_group(name, ranks);
      for (int i = 0; i < 20; ++i) sum(count, name);
      destroy_group(name);
    }
  };
  const std::vector<int> forth = all_ranks();
  const std::vector<int> back(forth.rbegin(), forth.rend());
  std::exception_ptr failure;
  std::thread other([&] {
    try {
      work("back", back, 100);
    } catch (...) {
      failure = std::current_exception();
    }
  });
  work("forth", forth, 7);
  other.join();
  if (failure) std::rethrow_exception(failure);
  say("two groups are right");
}

// Of three ranks, rank 1 is in both.
void two_groups_in_turn() {
  const bool first = get_rank()<2, second = get_rank()> 0;
  if (first) create_group("0-1", {0, 1});
  if (second) create_group("2-1", {2, 1});
  for (int i = 0; i < 20; ++i) {
    if (first) sum(10, "0-1");
    if (second) sum(20, "2-1");
  }
  say("two groups are right");
}

void different_counts() { sum(is_last() ? 5 : 4); }

void different_lists() {
  create_group("dp", is_last() ? std::vector<int>{get_rank(), 0} : all_ranks());
  sum(4, "dp");
}

void sum_for_ever() {
  sum(10);
  say("ready");
  for (;;) sum(10);
}

void last_does_not_call() {
  sum(10);
  if (!is_last()) return sum_for_ever();
  wait_for_order();
}

void last_does_not_connect() {
  sum(10);
  if (is_last()) return wait_for_order();
  create_group("dp", all_ranks());
  sum(10, "dp");
}

void last_leaves() {
  sum(10);
  if (!is_last()) return sum_for_ever();
  release();
  wait_for_order();
}

void last_kills_itself() {
  sum(10);
  if (is_last()) raise(SIGKILL);
  sum_for_ever();
}

void last_stops_itself() {
  sum(10);
  if (is_last()) raise(SIGSTOP);
  sum_for_ever();
}

void last_exits() {
  sum(10);
  if (is_last()) exit(7);
  sum_for_ever();
}

// Nobody waits for the others to have left, so that worlds overlap.
void join_again() {
  for (int round = 0; round < 3; ++round) {
    init();
    sum(10);
    create_group("all", all_ranks());
    sum(10, "all");
    if (round == 2) say("joined three times");
    release();
  }
}

// A first forward takes two messages. The last rank sends one and drops the call.
void last_drops_a_call() {
  SyncBatchNorm layer(64);
  std::vector<float> x(128, 1), y(128);
  x[0] = 2;
  Saved saved;
  sum(1);
  {
    JointCall call;
    call.forward(layer, {view(std::as_const(x), {2, 64}), view(y, {2, 64}), std::nullopt}, saved);
    call.start();
    if (!is_last()) call.finish();
  }
  say("dropped a call");
  wait_for_order();
}

// What a stranger sends, as SYNCBN_TEST_BYTES says: nothing, what a browser asks, noise, or zeros.
std::string stray_bytes() {
  const char* kind = getenv("SYNCBN_TEST_BYTES");
  if (kind == nullptr) return "";
  if (kind == std::string_view("http")) return "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
  std::string bytes(4096, '\0');
  std::mt19937 random(11);
  if (kind == std::string_view("noise")) std::generate(bytes.begin(), bytes.end(), random);
  return bytes;
}

// How many sockets of this process are listened on.
int listening() {
  int count = 0;
  for (int fd = 3; fd < 100; ++fd) {
    int listens = 0;
    socklen_t size = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0) ++count;
  }
  return count;
}

// Connects once to the first socket of this process on which Gloo waits for a peer. False: there was none.
bool take_the_place_of_a_peer() {
  for (int fd = 3; fd < 100; ++fd) {
    int listens = 0;
    socklen_t size = sizeof listens;
    sockaddr_in address{};
    socklen_t address_size = sizeof address;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &address_size) != 0)
      continue;
    const int stranger = socket(AF_INET, SOCK_STREAM, 0);  // stays open
    if (connect(stranger, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      const std::string bytes = stray_bytes();
      return send(stranger, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0;
    }
    close(stranger);
  }
  return false;
}

// On rank 1, which does not serve the store, a stranger is faster than a peer, once.
void stranger_connects() {
  std::atomic<bool> over{get_rank() != 1};
  std::atomic<int> strangers{0};
  std::thread stranger([&] {
    while (!over && strangers == 0) strangers += take_the_place_of_a_peer() ? 1 : 0;
  });
  for (int i = 0; i < 10; ++i) {  // should the stranger come too late for the first, the next has its chance
    const std::string name = fmt::format("group {}", i);
    create_group(name, all_ranks());
    sum(10, name);
  }
  over = true;
  stranger.join();
  say("sums are right with {} strangers, {} sockets listen", strangers.load(), listening());
}

// What a GroupError says.
template <class Call>
std::string refusal(Call call) {
  try {
    call();
    return "nothing";
  } catch (const GroupError& error) {
    return error.what();
  }
}

// In a fork: the group is refused at once, ranks as threads have a world of their own. Its end runs all
// destructors.
[[noreturn]] void live_as_a_fork(bool leaves) {
  alarm(30);  // ends a child that hangs
  if (refusal([] { sum(10); }).find("is a fork of the one that joined") == std::string::npos) _exit(11);
  if (refusal([] { create_group("late", all_ranks()); }).find("is a fork") == std::string::npos) _exit(12);
  run_ranks(2, [](int) { sum(10); });
  if (leaves) release();
  exit(leaves ? 5 : 6);
}

void fork_after_use() {
  for (const bool leaves : {true, false}) {
    sum(10);
    const pid_t child = fork();
    if (child == 0) live_as_a_fork(leaves);
    int status = 0;
    waitpid(child, &status, 0);
    sum(1000);
    say("its fork ended with {}", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  }
  create_group("later", all_ranks());
  sum(10, "later");
  say("sums are right after both");
}

const char* name_of(const Error& error) {
  if (dynamic_cast<const InvalidArgument*>(&error)) return "InvalidArgument";
  if (dynamic_cast<const MismatchError*>(&error)) return "MismatchError";
  if (dynamic_cast<const PeerError*>(&error)) return "PeerError";
  if (dynamic_cast<const TimeoutError*>(&error)) return "TimeoutError";
  if (dynamic_cast<const GroupError*>(&error)) return "GroupError";
  return "Error";
}

const std::map<std::string, void (*)()> tasks = {
    {"sums", sums},
    {"place", place},
    {"two_groups_at_once", two_groups_at_once},
    {"two_groups_in_turn", two_groups_in_turn},
    {"different_counts", different_counts},
    {"different_lists", different_lists},
    {"sum_for_ever", sum_for_ever},
    {"last_does_not_call", last_does_not_call},
    {"last_does_not_connect", last_does_not_connect},
    {"last_leaves", last_leaves},
    {"last_drops_a_call", last_drops_a_call},
    {"last_kills_itself", last_kills_itself},
    {"last_stops_itself", last_stops_itself},
    {"last_exits", last_exits},
    {"join_again", join_again},
    {"stranger_connects", stranger_connects},
    {"fork_after_use", fork_after_use},
};

}  // namespace

// Gloo's buffers wait for the last reader's reference count before they go, which the thread sanitizer can't
// see in a library that was built without it.
extern "C" const char* __tsan_default_suppressions() { return "race:libgloo\nrace:gloo::transport\n"; }

int main(int count, char** arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlives the driver
  const bool strict = count == 3 && arguments[2] == std::string_view("strict");
  if (count != (strict ? 3 : 2) || !tasks.contains(arguments[1])) return 2;
  fmt::print("process {}\n", getpid());
  std::fflush(stdout);
  try {
    init();
    tasks.at(arguments[1])();
  } catch (const Error& error) {
    fmt::print("{} on rank {}: {}\n", name_of(error), is_initialized() ? get_rank() : -1, error.what());
    std::fflush(stdout);
    if (strict) return 1;
    wait_for_order();  // a rank that saw the error first does not leave before the others see it
  }
  return 0;
}
