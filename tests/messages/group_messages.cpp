// SPDX-License-Identifier: Apache-2.0
// Worlds, groups, their sums, and the stores in which ranks meet
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

#include "engines/entry.h"
#include "engines/list_agreement.h"
#include "environment/environment.h"
#include "group/group.h"
#include "group/rank_report.h"
#include "messages/messages.h"
#include "ranks.h"
#include "rendezvous/memory_store.h"
#include "world/current_world.h"
#include "world/resolve_group.h"

namespace syncbn::testing {
namespace {

using world::resolve_group;

// Outside of a world, in an environment without a launcher.
std::string outside(const std::function<void()>& call, const Variables& variables = {}) {
  const Environment environment(variables);
  world::set_process_world(nullptr);
  std::string text = outcome(call);
  world::set_process_world(nullptr);
  return text;
}

std::string refused_init(void (*change)(InitOptions&)) {
  InitOptions options;
  options.size = 2;
  options.port = 1;
  change(options);
  return outside([&] { init(options); });
}

void sum(std::string_view group, const std::string& call = "a sum", std::size_t words = 1) {
  std::vector<std::int64_t> payload(words, 1);
  resolve_group(group)->sum({call, ""}, payload);
}

// The outcome on rank 0 of `size` ranks.
std::string on_rank_0(int size, const std::function<void(int rank)>& body) {
  std::string text;
  run_ranks(size, [&](int rank) {
    const std::string outcome_here = outcome([&] { body(rank); });
    if (rank == 0) text = outcome_here;
  });
  return text;
}

std::string on_one_rank(const std::function<void()>& call) {
  return on_rank_0(1, [&](int) { call(); });
}

// Outcome of the last of `calls` sums on rank 0 of a group of two. Its engine connects by calling `fail`.
std::string with_engine(const std::function<void()>& fail, int calls = 1) {
  Group group("dp", {0, 1}, 0, base::TimeLimit{std::chrono::milliseconds(500), "SYNCBN_TIMEOUT_S"},
              [&](Deadline) -> std::unique_ptr<Communicator> {
                fail();
                return nullptr;
              });
  std::vector<std::int64_t> payload(1);
  for (int call = 1; call < calls; ++call) outcome([&] { group.sum({"a sum", ""}, payload); });
  return outcome([&] { group.sum({"a sum", ""}, payload); });
}

std::string sum_of_floats(std::span<float> values) {
  return on_rank_0(1, [&](int) { all_reduce_sum(values); });
}

// Outcome of a product of `a`, whose elements are not read, and a float32 matrix (3, 2).
std::string product_of(const ConstTensorView& a, const Shape& product = {2, 2}) {
  std::vector<float> b(6), c(6);
  return on_rank_0(1, [&](int) {
    all_reduce_matmul(a, {b.data(), DType::float32, {3, 2}}, {c.data(), DType::float32, product});
  });
}

class Placed final : public Communicator {
 public:
  Placed(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    words_.resize(words);
    return std::span(words_).first(words == 0 || size_ != 3 ? words : words - 1);
  }
  void start(std::size_t) override {}
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  const int rank_, size_;
  std::vector<std::int64_t> words_;
};

std::string verdict(const std::vector<group::RankReport>& ranks) {
  return outcome([&] { group::throw_verdict(ranks); });
}

std::string lists(const group::GroupSpec& first, const group::GroupSpec& second,
                  std::chrono::milliseconds patience) {
  const auto board = std::make_shared<rendezvous::MemoryBoard>();
  return on_rank_0(2, [&](int rank) {
    rendezvous::MemoryStore store(board);
    engines::agree_on_list(store, rank == 0 ? first : second, rank,
                           std::chrono::steady_clock::now() + patience);
  });
}

// Outcome of `call` on the communicators of two ranks. One thread uses both.
std::string among_threads(const std::function<void(std::vector<std::unique_ptr<Communicator>>&)>& call) {
  const auto world = std::make_shared<engines::ThreadWorld>(2);
  std::vector<std::unique_ptr<Communicator>> communicators(2);
  run_ranks(2, [&](int rank) {
    communicators[static_cast<std::size_t>(rank)] = world->connect({"dp", {0, 1}, 0}, rank, soon());
  });
  return outcome([&] { call(communicators); });
}

void start_and_wait(Communicator& communicator, std::size_t words, Deadline deadline) {
  communicator.buffer(words);
  communicator.start(words);
  communicator.wait(deadline);
}

// The outcome in a child of a process that has joined a world of two.
std::string in_a_fork(const std::function<void()>& call) {
  return outside([&] {
    InitOptions options;
    options.size = 2;
    options.backend = Backend::simulation;
    init(options);
    int ends[2] = {};
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
    const pid_t child = fork();
    if (child == 0) {
      const std::string text = outcome(call);
      const bool written = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
      _exit(written ? 0 : 1);
    }
    close(ends[1]);
    std::string text(4096, '\0');
    const ssize_t size = read(ends[0], text.data(), text.size());
    close(ends[0]);
    waitpid(child, nullptr, 0);
    const std::string_view message =
        std::string_view(text).substr(0, static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    constexpr std::string_view kClass = "GroupError: ";
    throw GroupError(std::string(message.starts_with(kClass) ? message.substr(kClass.size()) : message));
  });
}

}  // namespace

std::vector<Message> group_messages() {
  using O = InitOptions&;
  using group::RankReport;
  alignas(double) static float values[3];
  const auto odd = reinterpret_cast<float*>(reinterpret_cast<char*>(values) + 1);
  const RankReport one{{0, 17, 40, 1}, "forward of layer 'bn1'", "C=64, eps=1e-05"};
  const RankReport other{{0, 17, 40, 2}, "forward of layer 'bn1'", "C=64, eps=0.001"};
  const RankReport failed{{1, 17, 0, 1}, "forward of layer 'bn1'", "a reason"};
  return {
      {"init: size", [] { return refused_init([](O o) { o.size = 0; }); }},
      {"init: rank", [] { return refused_init([](O o) { o.rank = 2; }); }},
      {"init: port", [] { return refused_init([](O o) { o.port = 0; }); }},
      {"init: host", [] { return refused_init([](O o) { o.host = ""; }); }},
      {"init: timeout", [] { return refused_init([](O o) { o.timeout = std::chrono::milliseconds(0); }); }},
      {"init: automatic", [] { return refused_init([](O o) { o.backend = Backend::automatic; }); }},
      {"init: backend of options",
       [] { return refused_init([](O o) { o.backend = static_cast<Backend>(9); }); }},
      {"init: backend", [] { return outside([] { init(static_cast<Backend>(9)); }); }},
      {"init: twice", [] { return on_one_rank([] { init(InitOptions{}); }); }},
      {"init: after release in run_ranks",
       [] {
         return on_one_rank([] {
           release();
           init();
         });
       }},
      {"init: simulation without a rank",
       [] {
         return outside([] { init(Backend::simulation); },
                        {{"MS_WORKER_NUM", "4"}, {"MS_SCHED_HOST", "h"}, {"MS_SCHED_PORT", "1"}});
       }},
      {"init: an engine that is not linked",
       [] {
         const std::string text = outcome([] { engines::find_engine("nonesuch"); });
         const std::size_t has = text.find("which has ");  // which depends on the test's own engines
         return text.substr(0, has) + "*" + text.substr(text.find(';', has));
       }},
      {"get: not initialised", [] { return outside([] { get_rank("dp"); }); }},
      {"get: released",
       [] {
         return outside([] {
           init(InitOptions{});
           release();
           get_rank("dp");
         });
       }},
      {"get: released in run_ranks",
       [] {
         return on_one_rank([] {
           release();
           get_rank("dp");
         });
       }},
      {"get: an unknown group", [] { return on_one_rank([] { get_rank("dp"); }); }},
      {"get: ranks of the environment that nobody joined",
       [] {
         return outside(
             [] { resolve_group("world"); },
             {{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "9"}});
       }},
      {"get: a negative rank",
       [] { return on_one_rank([] { get_world_rank_from_group_rank("world", -1); }); }},
      {"get: a rank that the group has not",
       [] { return on_one_rank([] { get_world_rank_from_group_rank("world", 3); }); }},
      {"get: a world rank that is no member",
       [] { return on_one_rank([] { get_group_rank_from_world_rank(3, "world"); }); }},
      {"release: not initialised", [] { return outside([] { release(); }); }},
      {"create_group: not initialised", [] { return outside([] { create_group("dp", {0}); }); }},
      {"create_group: no ranks", [] { return on_one_rank([] { create_group("dp", {}); }); }},
      {"create_group: no name", [] { return on_one_rank([] { create_group("", {0}); }); }},
      {"create_group: a rank twice", [] { return on_one_rank([] {
                                            create_group("dp", {0, 0});
                                          }); }},
      {"create_group: a rank outside the world",
       [] { return on_one_rank([] {
              create_group("dp", {0, 1});
            }); }},
      {"create_group: a name that is taken",
       [] {
         return on_rank_0(2, [](int) {
           create_group("dp", {0, 1});
           create_group("dp", {1, 0});
         });
       }},
      {"create_group: no member",
       [] { return on_rank_0(2, [](int rank) { create_group("dp", {1 - rank}); }); }},
      {"new_group: not initialised", [] { return outside([] {
                                            new_group({1, 0});
                                          }); }},
      {"destroy_group: the world", [] { return on_one_rank([] { destroy_group("world"); }); }},
      {"make_group: no communicator", [] { return outcome([] { make_group("dp", nullptr); }); }},
      {"make_group: no name", [] { return outcome([] { make_group("", std::make_unique<Placed>(0, 1)); }); }},
      {"make_group: rank and size",
       [] { return outcome([] { make_group("dp", std::make_unique<Placed>(2, 2)); }); }},
      {"run_ranks: size", [] { return outcome([] { run_ranks(0, [](int) {}); }); }},
      {"run_ranks: body", [] { return outcome([] { run_ranks(2, nullptr); }); }},
      {"all_reduce_sum: null",
       [] {
         return sum_of_floats({static_cast<float*>(nullptr), 2});
       }},
      {"all_reduce_sum: alignment",
       [=] {
         return sum_of_floats({odd, 2});
       }},
      {"all_reduce_sum: too many",
       [] {
         return sum_of_floats({values, SIZE_MAX});
       }},
      {"all_reduce_matmul: dtype",
       [] {
         return product_of({values, DType::bfloat16, {3, 2}});
       }},
      {"all_reduce_matmul: another dtype",
       [] {
         return product_of({values, DType::float64, {3, 2}});
       }},
      {"all_reduce_matmul: dimensions",
       [] {
         return product_of({values, DType::float32, {3, 2, 1}});
       }},
      {"all_reduce_matmul: rows",
       [] {
         return product_of({values, DType::float32, {2, 2}});
       }},
      {"all_reduce_matmul: product",
       [] {
         return product_of({values, DType::float32, {3, 2}}, {2, 3});
       }},
      {"sum: different calls",
       [] { return on_rank_0(3, [](int rank) { sum("world", rank == 1 ? "one sum" : "another sum"); }); }},
      {"sum: a rank has failed",
       [] {
         return on_rank_0(2, [](int rank) {
           if (rank == 1) return resolve_group("world")->fail({"a sum", ""}, "a reason");
           sum("world");
         });
       }},
      {"sum: a rank has ended",
       [] {
         return outcome([] {
           run_ranks(2, [](int rank) {
             if (rank == 0) sum("world");
           });
         });
       }},
      {"sum: a rank's thread has failed",
       [] {
         std::string text;
         try {
           run_ranks(2, [&](int rank) {
             if (rank == 1) throw std::runtime_error("bad luck");
             text = outcome([] { sum("world"); });
           });
         } catch (const std::runtime_error&) {
         }
         return text;
       }},
      {"sum: no peer by the deadline",
       [] {
         return with_engine([] {
           std::this_thread::sleep_for(std::chrono::milliseconds(500));  // with_engine's timeout
           throw TimeoutError("waiting for rank 1");
         });
       }},
      {"sum: an engine's own time limit",
       [] { return with_engine([] { throw TimeoutError("no answer after 30 ms"); }); }},
      {"sum: an engine's error", [] { return with_engine([] { throw PeerError("connection reset"); }); }},
      {"sum: a broken group", [] { return with_engine([] { throw PeerError("connection reset"); }, 2); }},
      {"sum: a closed group",
       [] {
         return on_one_rank([] {
           create_group("dp", {0});
           const auto kept = resolve_group("dp");
           destroy_group("dp");
           std::vector<std::int64_t> payload(1);
           kept->sum({"a sum", ""}, payload);
         });
       }},
      {"sum: a group that its rank has left",
       [] {
         std::shared_ptr<Group> kept;
         run_ranks(1, [&](int) { kept = resolve_group("world"); });
         std::vector<std::int64_t> payload(1);
         return outcome([&] { kept->sum({"a sum", ""}, payload); });
       }},
      {"sum: an engine's short buffer",
       [] {
         std::vector<std::int64_t> payload(1);
         const auto group = make_group("dp", std::make_unique<Placed>(0, 3));
         return outcome([&] { group->sum({"a sum", ""}, payload); });
       }},
      {"sum: an engine that loses ranks",
       [] {
         std::vector<std::int64_t> payload(1);
         const auto group = make_group("dp", std::make_unique<Placed>(0, 2));
         return outcome([&] { group->sum({"a sum", ""}, payload); });
       }},
      {"verdict: an option differs",
       [=] {
         return verdict({one, one, other, one});
       }},
      {"verdict: failed ranks",
       [=] {
         return verdict({failed, one, one, failed});
       }},
      {"verdict: a difference and a failed rank",
       [=] {
         return verdict({one, other, failed});
       }},
      {"verdict: lengths and numbers of calls",
       [] {
         return verdict({{{0, 17, 40, 1}, "a sum", ""}, {{0, 18, 41, 2}, "a sum", ""}});
       }},
      {"verdict: a difference too long to be told",
       [] {
         return verdict({{{0, 1, 1, 1}, "a sum", ""}, {{0, 1, 1, 2}, "a sum", ""}});
       }},
      {"verdict: many different calls",
       [] {
         std::vector<RankReport> ranks;
         for (int r = 0; r < 20; ++r) ranks.push_back({{0, 1, 1, r}, "a sum", "C=" + std::to_string(r)});
         return verdict(ranks);
       }},
      {"lists: different lists under one name",
       [] {
         return lists({"dp", {0, 1}, 0}, {"dp", {1, 0}, 0}, std::chrono::seconds(60));
       }},
      {"lists: a rank that never came",
       [] {
         return lists({"dp", {0, 1}, 0}, {"another", {0, 1}, 0}, std::chrono::milliseconds(50));
       }},
      {"lists: a rank that came with an older group",
       [] {
         return lists({"dp", {0, 1}, 2}, {"dp", {0, 1}, 0}, std::chrono::milliseconds(50));
       }},
      {"lists: an unreadable entry",
       [] {
         rendezvous::MemoryStore store(std::make_shared<rendezvous::MemoryBoard>());
         store.set("board/dp/" + std::to_string(store.add("board/dp", 1)), "x");
         return outcome([&] { engines::agree_on_list(store, {"dp", {0, 1}, 0}, 0, soon()); });
       }},
      {"store: a key that nobody set",
       [] {
         rendezvous::MemoryStore store(std::make_shared<rendezvous::MemoryBoard>());
         return outcome([&] { store.get("key", std::chrono::steady_clock::now()); });
       }},
      {"threads: a rank is missing at the deadline",
       [] {
         return among_threads([](auto& c) { start_and_wait(*c[0], 1, std::chrono::steady_clock::now()); });
       }},
      {"threads: a rank that gave up",
       [] {
         return among_threads([](auto& c) {
           outcome([&] { start_and_wait(*c[0], 1, std::chrono::steady_clock::now()); });
           start_and_wait(*c[1], 1, soon());
           start_and_wait(*c[1], 1, soon());
         });
       }},
      {"threads: a rank that has left",
       [] {
         return among_threads([](auto& c) {
           c[1].reset();
           start_and_wait(*c[0], 1, soon());
         });
       }},
      {"threads: this rank has left",
       [] {
         return among_threads([](auto& c) {
           c[0]->abort();
           start_and_wait(*c[0], 1, soon());
         });
       }},
      {"threads: unequal lengths",
       [] {
         return among_threads([](auto& c) {
           c[1]->buffer(6);
           c[1]->start(6);
           start_and_wait(*c[0], 5, soon());
         });
       }},
      {"fork: a sum", [] { return in_a_fork([] { sum("world"); }); }},
      {"fork: a group", [] { return in_a_fork([] {
                               create_group("dp", {0, 1});
                             }); }},
  };
}

}  // namespace syncbn::testing
