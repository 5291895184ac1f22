// SPDX-License-Identifier: Apache-2.0

// Several layers in one message, and calls in two halves: the bits of the layers' own calls, one message, the
// same errors, and nothing changed where something fails.
//
// control: with the sum under way not waited for before the next one starts, Overlap fails; with each forward
// committed as soon as it is finished, ALaterLayerFailsNothingHasChanged; with texts of the first call only,
// MismatchInALaterCall.
#include "syncbn/joint_call.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "counted_communicator.h"
#include "layer/calls.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr int kRanks = 3;

// One rank's share of one layer's batch, the layer, and what its calls leave.
struct Part {
  Part(std::int64_t channels, int rank, const SyncBatchNormOptions& options = {})
      : shape{rank, channels, 5}, layer(channels, options) {  // rank 0 brings nothing
    std::mt19937 random(static_cast<unsigned>(100 * channels + rank));
    std::lognormal_distribution<float> value(0, 2);
    for (auto* tensor : {&x, &dy}) {
      for (std::int64_t i = 0; i < shape.elements(); ++i) tensor->push_back(value(random));
    }
    y.resize(x.size());
    dx.resize(x.size());
  }
  ForwardTensors forward() { return {read(x), view(y, shape), std::nullopt}; }
  BackwardTensors backward() { return {read(dy), read(x), std::nullopt, view(dx, shape), std::nullopt}; }
  ConstTensorView read(const DeviceVector<float>& values) const { return view(values, shape); }

  // Everything that calls change.
  std::vector<std::byte> bytes() {
    std::vector<std::byte> all;
    const auto take = [&](const void* data, std::size_t size) {
      const auto* from = static_cast<const std::byte*>(data);
      all.insert(all.end(), from, from + size);
    };
    for (const auto& tensor : {y, dx}) take(tensor.data(), tensor.size() * sizeof(float));
    for (const auto* values : {&saved.mean, &saved.var, &saved.invstd, &saved.scale})
      take(values->data(), values->size() * sizeof(double));
    for (const StateEntry& entry : layer.state())
      take(entry.data, entry.size * (entry.dtype ? size_of(*entry.dtype) : sizeof(std::int64_t)));
    for (const char* name : {"weight_grad", "bias_grad"}) {
      const auto gradient = layer.values<float>(name);
      take(gradient.data(), gradient.size_bytes());
    }
    return all;
  }

  Shape shape;
  SyncBatchNorm layer;
  Saved saved;
  DeviceVector<float> x, dy, y, dx;
};

struct Parts {
  explicit Parts(int rank) : a(3, rank), b(40, rank) {}
  std::vector<std::byte> bytes() {
    std::vector<std::byte> all = a.bytes();
    const std::vector<std::byte> more = b.bytes();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Part a, b;
};

// What `train` leaves on each rank. It is called twice: the second time lengths are known from the first.
using Train = std::function<void(Parts&)>;
std::vector<std::vector<std::byte>> after(const Train& train) {
  std::vector<std::vector<std::byte>> result(kRanks);
  run_ranks(kRanks, [&](int rank) {
    Parts parts(rank);
    for (int step = 0; step < 2; ++step) train(parts);
    result[static_cast<std::size_t>(rank)] = parts.bytes();
  });
  return result;
}

void own_calls(Parts& p) {
  p.a.layer.forward(p.a.forward(), p.a.saved);
  p.b.layer.forward(p.b.forward(), p.b.saved);
  p.b.layer.backward(p.b.saved, p.b.backward());
  p.a.layer.backward(p.a.saved, p.a.backward());
}

TEST(JointCall, SameBitsAsTheLayersOwnCalls) {
  EXPECT_EQ(after([](Parts& p) {
              JointCall call;
              call.forward(p.a.layer, p.a.forward(), p.a.saved);
              call.forward(p.b.layer, p.b.forward(), p.b.saved);
              call.start();
              call.finish();
              call.backward(p.b.layer, p.b.saved, p.b.backward());
              call.backward(p.a.layer, p.a.saved, p.a.backward());
              call.finish();
            }),
            after(own_calls));
  // Control: the comparison sees one layer's backward left out.
  EXPECT_NE(after([](Parts& p) {
              own_calls(p);
              std::fill(p.a.dx.begin(), p.a.dx.end(), 0.0F);
            }),
            after(own_calls));
}

TEST(JointCall, Overlap) {
  EXPECT_EQ(after([](Parts& p) {
              JointCall first, second;
              first.forward(p.a.layer, p.a.forward(), p.a.saved);
              first.start();
              p.b.layer.forward(p.b.forward(), p.b.saved);  // while the other is under way
              first.finish();
              first.backward(p.b.layer, p.b.saved, p.b.backward());
              second.backward(p.a.layer, p.a.saved, p.a.backward());
              first.start();
              second.start();
              second.finish();
              first.finish();
            }),
            after(own_calls));
}

// Both ranks bring the same.
class Twice final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    buffer_.resize(std::max(words, buffer_.size()));
    return buffer_;
  }
  void start(std::size_t words) override {
    for (std::size_t i = 0; i < words; ++i) {  // wraps, as an engine does: a name's bytes fill a word
      buffer_[i] = static_cast<std::int64_t>(2 * static_cast<std::uint64_t>(buffer_[i]));
    }
  }
  void wait(Deadline) override {}
  void abort() noexcept override {}

 private:
  std::vector<std::int64_t> buffer_;
};

TEST(JointCall, OneMessageInSteadyState) {
  int messages = 0;
  SyncBatchNormOptions options;
  options.process_group =
      make_group("pair", std::make_unique<CountedCommunicator>(std::make_unique<Twice>(), messages));
  Part a(3, 1, options), b(40, 2, options);
  const auto step = [&] {
    messages = 0;
    JointCall call;
    call.forward(a.layer, a.forward(), a.saved);
    call.forward(b.layer, b.forward(), b.saved);
    call.start();
    call.finish();
    return messages;
  };
  EXPECT_EQ(step(), 4);  // versions, shared memory, the call, and the rest of its payload
  step();
  EXPECT_EQ(step(), 1);
}

TEST(JointCall, OfOneCallIsTheLayersOwn) {
  EXPECT_EQ(after([](Parts& p) {
              if (get_rank() == 1) {
                JointCall call;
                call.forward(p.a.layer, p.a.forward(), p.a.saved);
                call.finish();
              } else {
                p.a.layer.forward(p.a.forward(), p.a.saved);
              }
            }),
            after([](Parts& p) { p.a.layer.forward(p.a.forward(), p.a.saved); }));
}

// Outcomes of `call` on three ranks, of which none may have changed its layers.
std::vector<std::string> failing(const std::function<void(Parts&, int rank)>& call,
                                 const SyncBatchNormOptions& of_b = {}) {
  std::vector<std::string> texts(kRanks);
  run_ranks(kRanks, [&](int rank) {
    Parts parts(rank);
    parts.b.layer = SyncBatchNorm(40, of_b);
    own_calls(parts);
    const auto state = [&] {
      std::vector<std::byte> all;
      for (Part* part : {&parts.a, &parts.b}) {
        std::fill(part->y.begin(), part->y.end(), 0.0F);  // outputs of a failed call are not defined
        const std::vector<std::byte> bytes = part->bytes();
        all.insert(all.end(), bytes.begin(), bytes.end());
      }
      return all;
    };
    const std::vector<std::byte> before = state();
    texts[static_cast<std::size_t>(rank)] = outcome([&] { call(parts, rank); });
    EXPECT_EQ(state(), before) << rank;
  });
  return texts;
}

TEST(JointCall, MismatchInALaterCall) {
  for (const std::string& text : failing([](Parts&p, int rank) {
         JointCall call;
         call.forward(p.a.layer, p.a.forward(), p.a.saved);
         rank == 2 ? call.forward(p.b.layer, p.b.forward(), p.b.saved)
                   : call.backward(p.b.layer, p.b.saved, p.b.backward());
         call.finish();
       })) {
    expect_error<MismatchError>(text,
                                {"'world'", "call 5", "rank 2 ... forward ... unnamed layer ... forward",
                                 "ranks 0-1 ... forward ... unnamed layer ... backward"});
  }
}

TEST(JointCall, ARankWhoseLaterCallIsWrong) {
  const std::vector<std::string> texts = failing([](Parts& p, int rank) {
    JointCall call;
    call.forward(p.a.layer, p.a.forward(), p.a.saved);
    ForwardTensors tensors = p.b.forward();
    if (rank == 1) tensors.x.dtype = DType::float16;
    call.forward(p.b.layer, tensors, p.b.saved);
    call.finish();
  });
  expect_error<InvalidArgument>(texts[1], {"float16", "float32"});
  for (const std::size_t r : {0u, 2u}) expect_error<PeerError>(texts[r], {"rank 1 ... float16"});
}

TEST(JointCall, ALaterLayerFailsNothingHasChanged) {
  SyncBatchNormOptions strict;
  strict.nonfinite = Nonfinite::error;
  for (const std::string& text : failing(
           [](Parts&p, int rank) {
             if (rank == 1) p.b.x[7] = INFINITY;
             JointCall call;
             call.forward(p.a.layer, p.a.forward(), p.a.saved);
             call.forward(p.b.layer, p.b.forward(), p.b.saved);
             call.finish();
           },
           strict)) {
    expect_error<InvalidArgument>(text, {"x", "channel 1 ... inf"});
  }
}

// The outcomes of four calls of a layer; rank 1 does not finish one of them.
std::vector<std::vector<std::string>> calls_of_which_one_is_dropped(int dropped) {
  std::vector<std::vector<std::string>> texts(kRanks);
  run_ranks(kRanks, [&](int rank) {
    Part part(40, rank);
    for (int i = 0; i < 4; ++i) {
      const bool drops = rank == 1 && i == dropped;
      const std::vector<std::byte> before = part.bytes();
      texts[static_cast<std::size_t>(rank)].push_back(outcome([&] {
        JointCall call;
        call.forward(part.layer, part.forward(), part.saved);
        call.start();
        if (!drops) call.finish();
      }));
      EXPECT_EQ(part.bytes() == before, drops || texts[static_cast<std::size_t>(rank)].back() != "ok");
    }
  });
  return texts;
}

// Its message is on its way already, so the peers have this sum, and hear of it at the next one.
TEST(JointCall, DroppedBreaksTheGroupAtOnce) {
  const auto texts = calls_of_which_one_is_dropped(2);
  for (const std::size_t r : {0u, 2u}) {
    EXPECT_EQ(std::vector(texts[r].begin(), texts[r].begin() + 3), all(3, "ok")) << r;
    expect_error<PeerError>(texts[r][3], {"'world'", "call 4", "forward ... unnamed layer",
                                          "rank " + std::to_string(r) + " ... rank 1 ... left"});
  }
  EXPECT_EQ(texts[1][2], "ok");
  expect_error<GroupError>(texts[1][3],
                           {"'world'", "forward ... unnamed layer ... forward ... unnamed layer"});
}

// A first call needs a second message, which this rank does not send any more.
TEST(JointCall, DroppedAtTheFirstMessage) {
  const auto texts = calls_of_which_one_is_dropped(0);
  for (const std::size_t r : {0u, 2u}) {
    expect_error<PeerError>(texts[r][0], {"'world'", "call 1", "forward ... unnamed layer",
                                          "rank " + std::to_string(r) + " ... rank 1 ... left"});
  }
}

TEST(JointCall, AssignedToWhileStarted) {
  for (const std::string& text : outcomes(2, [](int rank) {
         Part part(3, rank + 1);
         JointCall call;
         call.forward(part.layer, part.forward(), part.saved);
         call.start();
         call = JointCall();
         call.forward(part.layer, part.forward(), part.saved);
         call.start();
       })) {
    expect_error<GroupError>(text, {"'world'", "forward ... unnamed layer ... forward ... unnamed layer"});
  }
}

// Between the halves layers may move and go; what they leave is right all the same.
TEST(JointCall, LayersMoveAndGo) {
  EXPECT_EQ(after([](Parts& p) {
              JointCall call;
              call.forward(p.a.layer, p.a.forward(), p.a.saved);
              call.start();
              SyncBatchNorm moved = std::move(p.a.layer);
              call.finish();
              p.a.layer = std::move(moved);
              p.b.layer.forward(p.b.forward(), p.b.saved);
              p.b.layer.backward(p.b.saved, p.b.backward());
              p.a.layer.backward(p.a.saved, p.a.backward());
            }),
            after(own_calls));
  EXPECT_EQ(after([](Parts& p) {
              JointCall call;
              {
                SyncBatchNormOptions options;
                options.name = "gone";
                SyncBatchNorm gone(3, options);
                call.forward(gone, p.a.forward(), p.a.saved);
                call.start();
              }
              call.finish();
              std::fill(p.a.y.begin(), p.a.y.end(), p.a.y.empty() ? 0.0F : p.a.y[0]);
            }),
            after([](Parts& p) {
              SyncBatchNormOptions options;
              options.name = "gone";
              SyncBatchNorm(3, options).forward(p.a.forward(), p.a.saved);
              std::fill(p.a.y.begin(), p.a.y.end(), p.a.y.empty() ? 0.0F : p.a.y[0]);
            }));
}

// control: with check_apart left out of JointCall these calls are made, and the second is of old memory.
TEST(JointCall, CallsUseMemoryOfTheirOwn) {
  const auto text = [&](const std::function<void(JointCall&, Part&, Part&)>& add) {
    SyncBatchNormOptions options;
    options.process_group = make_group("pair", std::make_unique<Twice>());
    Part a(3, 1, options), b(3, 1, options);
    a.layer.forward(a.forward(), a.saved);
    b.layer.forward(b.forward(), b.saved);
    JointCall call;
    return outcome([&] { add(call, a, b); });
  };
  const auto chained = [](JointCall& call, Part& a, Part& b) {
    call.forward(a.layer, a.forward(), a.saved);
    call.forward(b.layer, {b.read(a.y), view(b.y, b.shape), std::nullopt}, b.saved);
  };
  expect_error<InvalidArgument>(text(chained), {"x ... 60 bytes ... y", "finish()"});
  const auto same_output = [](JointCall& call, Part& a, Part& b) {
    call.backward(a.layer, a.saved, a.backward());
    BackwardTensors tensors = b.backward();
    tensors.dx = view(a.dx, a.shape);
    call.backward(b.layer, b.saved, tensors);
  };
  expect_error<InvalidArgument>(text(same_output), {"dx ... 60 bytes"});
  const auto over_input = [](JointCall& call, Part& a, Part& b) {
    call.forward(a.layer, a.forward(), a.saved);
    call.forward(b.layer, {b.read(b.x), view(a.x, a.shape), std::nullopt}, b.saved);
  };
  expect_error<InvalidArgument>(text(over_input), {"y ... 60 bytes"});
  const auto same_saved = [](JointCall& call, Part& a, Part& b) {
    call.forward(a.layer, a.forward(), a.saved);
    call.backward(a.layer, a.saved, b.backward());
  };
  expect_error<InvalidArgument>(text(same_saved), {"saved"});
  const auto evaluated = [](JointCall& call, Part& a, Part& b) {
    b.layer.set_train(false);
    call.forward(a.layer, a.forward(), a.saved);
    const ForwardTensors of_outputs{b.read(a.y), view(b.y, b.shape), std::nullopt};
    expect_error<InvalidArgument>([&] { call.forward(b.layer, of_outputs, b.saved); }, {"x ... 60 bytes"});
    call.finish();  // what was added before still stands
    EXPECT_EQ(a.layer.values<std::int64_t>("num_batches_tracked")[0], 2);
  };
  EXPECT_EQ(text(evaluated), "ok");
  const auto inputs_shared = [](JointCall& call, Part& a, Part& b) {
    call.forward(a.layer, a.forward(), a.saved);
    call.forward(b.layer, {b.read(a.x), view(b.y, b.shape), std::nullopt}, b.saved);
    call.finish();
  };
  EXPECT_EQ(text(inputs_shared), "ok");
}

TEST(JointCall, NothingToSendIsDoneAtOnce) {
  Part alone(3, 2), evaluated(3, 2), own(3, 2);
  JointCall call;
  call.forward(alone.layer, alone.forward(), alone.saved);
  own.layer.forward(own.forward(), own.saved);
  EXPECT_EQ(alone.y, own.y);
  EXPECT_EQ(alone.layer.values<std::int64_t>("num_batches_tracked")[0], 1);
  evaluated.layer.set_train(false);
  call.forward(evaluated.layer, evaluated.forward(), evaluated.saved);
  EXPECT_EQ(evaluated.saved.statistics, Saved::Statistics::running);
  call.start();
  call.finish();
}

TEST(JointCall, WrongUses) {
  const auto group = [](const char* name) { return make_group(name, std::make_unique<Twice>()); };
  SyncBatchNormOptions left, right;
  left.process_group = group("left");
  right.process_group = group("right");
  Part a(3, 1, left), b(3, 1, left), c(3, 1, right);
  JointCall call;
  call.forward(a.layer, a.forward(), a.saved);
  call.start();
  expect_error<InvalidArgument>([&] { call.forward(b.layer, b.forward(), b.saved); },
                                {"JointCall", "finish()"});
  call.finish();  // what was started still stands
  EXPECT_EQ(a.layer.values<std::int64_t>("num_batches_tracked")[0], 1);
  call.forward(a.layer, a.forward(), a.saved);
  expect_error<InvalidArgument>([&] { call.forward(c.layer, c.forward(), c.saved); },
                                {"unnamed layer", "'right'", "'left'"});
}

}  // namespace
}  // namespace syncbn::testing
