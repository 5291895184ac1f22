// SPDX-License-Identifier: Apache-2.0
// Options, tensors and calls of layers
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "messages/messages.h"
#include "outcome.h"
#include "syncbn/framework.h"
#include "syncbn/syncbn.h"

namespace syncbn::testing {
namespace {

constexpr auto kNoDType = static_cast<DType>(4);
float elsewhere[2];

std::string constructed(void (*change)(SyncBatchNormOptions&), std::int64_t num_features = 2) {
  return outcome([&] {
    SyncBatchNormOptions options;
    change(options);
    const SyncBatchNorm layer(num_features, options);
  });
}

std::string shape_of(const std::vector<std::int64_t>& sizes) {
  return outcome([&] { const Shape shape(sizes); });
}

// A layer of two channels and a (2, 2, 2) batch.
struct Batch {
  explicit Batch(const SyncBatchNormOptions& options = {}) : layer(2, options) {}
  void forward(void (*spoil)(ForwardTensors&)) {
    ForwardTensors tensors{view(std::as_const(x), shape), view(y, shape), std::nullopt};
    spoil(tensors);
    layer.forward(tensors);
  }
  void backward(void (*spoil)(BackwardTensors&)) {
    BackwardTensors tensors{view(std::as_const(dy), shape), view(std::as_const(x), shape),
                            view(std::as_const(y), shape), view(dx, shape), std::nullopt};
    spoil(tensors);
    layer.backward(tensors);
  }
  const Shape shape{2, 2, 2};
  std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8}, y = x, dy = x, dx = x;
  SyncBatchNorm layer;
  Saved saved;
};

void good(ForwardTensors&) {}
void good(BackwardTensors&) {}

std::string forward(void (*spoil)(ForwardTensors&)) {
  Batch batch;
  return outcome([&] { batch.forward(spoil); });
}

std::string backward(void (*spoil)(BackwardTensors&), Activation activation = Activation::none) {
  SyncBatchNormOptions options;
  options.activation = activation;
  Batch batch(options);
  batch.forward(good);
  return outcome([&] { batch.backward(spoil); });
}

std::string with_saved(void (*spoil)(Saved&)) {
  Batch batch;
  batch.forward(good);
  Saved saved = batch.layer.saved();
  spoil(saved);
  return outcome([&] {
    batch.layer.backward(
        saved, {view(std::as_const(batch.dy), batch.shape), view(std::as_const(batch.x), batch.shape),
                std::nullopt, view(batch.dx, batch.shape), std::nullopt});
  });
}

std::string joint(const std::function<void(JointCall&, Batch&, Batch&)>& calls) {
  return outcomes(2, [&](int) {
    Batch first, second;
    JointCall call;
    calls(call, first, second);
  })[0];
}

void add(JointCall& call, Batch& batch, const float* x) {
  ForwardTensors tensors{view(std::as_const(batch.x), batch.shape), view(batch.y, batch.shape), std::nullopt};
  tensors.x.data = x;
  call.forward(batch.layer, tensors, batch.saved);
}

}  // namespace

std::vector<Message> layer_messages() {
  using O = SyncBatchNormOptions&;
  using F = ForwardTensors&;
  using B = BackwardTensors&;
  return {
      {"layers: two in another order",
       [] {
         return outcomes(2, [](int rank) {
           Batch layers[2];
           for (const int i : {rank, 1 - rank}) layers[i].forward(good);
         })[0];
       }},
      {"options: num_features", [] { return constructed([](O) {}, 0); }},
      {"options: eps", [] { return constructed([](O o) { o.eps = -1e-5; }); }},
      {"options: momentum", [] { return constructed([](O o) { o.momentum = -0.1; }); }},
      {"options: dtype", [] { return constructed([](O o) { o.dtype = kNoDType; }); }},
      {"options: affine_gradients",
       [] { return constructed([](O o) { o.affine_gradients = static_cast<AffineGradients>(2); }); }},
      {"options: nonfinite",
       [] { return constructed([](O o) { o.nonfinite = static_cast<Nonfinite>(3); }); }},
      {"options: activation",
       [] { return constructed([](O o) { o.activation = static_cast<Activation>(2); }); }},
      {"options: device",
       [] { return constructed([](O o) {
              o.device = {static_cast<Device::Type>(9), 1};
            }); }},
      {"options: process_group",
       [] { return constructed([](O o) { o.process_group = std::shared_ptr<Group>(); }); }},
      {"shape: too few dimensions", [] { return shape_of({3}); }},
      {"shape: a negative size",
       [] {
         return shape_of({1, 2, -5});
       }},
      {"shape: no channels",
       [] {
         return shape_of({1, 0});
       }},
      {"shape: too many elements",
       [] {
         return shape_of({1, std::int64_t{1} << 49});
       }},
      {"view: another number of elements",
       [] { return outcome([] {
              view(std::span<float>(elsewhere), Shape{2, 3});
            }); }},
      {"values: an unknown name", [] { return outcome([] { SyncBatchNorm(2).values<float>("gamma"); }); }},
      {"values: another dtype",
       [] { return outcome([] { SyncBatchNorm(2).values<double>("running_mean"); }); }},
      {"bind: an unknown name",
       [] {
         return outcome([] {
           SyncBatchNorm layer(2);
           FrameworkHooks(layer).bind("gamma", elsewhere);
         });
       }},
      {"bind: alignment",
       [] {
         return outcome([] {
           SyncBatchNorm layer(2);
           FrameworkHooks(layer).bind("weight", reinterpret_cast<char*>(elsewhere) + 1);
         });
       }},
      {"isa: an unknown name",
       [] {
         std::string text = outcome([] { force_isa("mmx"); });
         return text.substr(0, text.find(": ", text.find("mmx"))) + ": *";  // each machine has others
       }},
      {"threads: a count", [] { return outcome([] { set_num_threads(4097); }); }},
      {"tensor: dtype", [] { return forward([](F t) { t.x.dtype = kNoDType; }); }},
      {"tensor: layout", [] { return forward([](F t) { t.x.layout = static_cast<Layout>(2); }); }},
      {"tensor: null", [] { return forward([](F t) { t.x.data = nullptr; }); }},
      {"tensor: beyond the address space",
       [] { return forward([](F t) { t.x.data = reinterpret_cast<float*>(UINTPTR_MAX - 15); }); }},
      {"tensor: alignment",
       [] { return forward([](F t) { t.x.data = static_cast<const char*>(t.x.data) + 1; }); }},
      {"tensor: channels", [] { return forward([](F t) {
                                  t.x.shape = Shape{2, 4};
                                }); }},
      {"tensor: another shape than x", [] { return forward([](F t) {
                                              t.y.shape = Shape{2, 2, 1};
                                            }); }},
      {"tensor: another dtype than x", [] { return forward([](F t) { t.y.dtype = DType::bfloat16; }); }},
      {"tensor: another layout than x",
       [] { return forward([](F t) { t.y.layout = Layout::channels_last; }); }},
      {"tensor: another device than the layer", [] { return forward([](F t) { t.x.device.index = 1; }); }},
      {"tensor: another device than x", [] { return forward([](F t) { t.y.device.index = 1; }); }},
      {"tensor: overlap", [] { return forward([](F t) { t.y.data = const_cast<void*>(t.x.data); }); }},
      {"backward: no y under a ReLU", [] { return backward([](B t) { t.y.reset(); }, Activation::relu); }},
      {"backward: no forward",
       [] {
         Batch batch;
         return outcome([&] { batch.backward(good); });
       }},
      {"backward: another layer's saved",
       [] { return with_saved([](Saved& s) { s.var.resize(3, kHostMemory); }); }},
      {"backward: saved on another device",
       [] {
         return with_saved([](Saved& s) {
           static const DeviceMemory kOther = kHostMemory;
           s.var.resize(2, kOther);
         });
       }},
      {"backward: another number of elements", [] { return with_saved([](Saved& s) { s.count = 3; }); }},
      {"double backward: gradients of the group",
       [] {
         SyncBatchNormOptions options;
         options.affine_gradients = AffineGradients::group;
         Batch batch(options);
         batch.forward(good);
         return outcome([&] {
           const auto x = view(std::as_const(batch.x), batch.shape);
           FrameworkHooks(batch.layer)
               .double_backward(batch.layer.saved(), BackwardSums{}, {x, x, {}, {}, {}, {}, {}});
         });
       }},
      {"double backward: another layer's sums",
       [] {
         Batch batch;
         batch.forward(good);
         return outcome([&] {
           const auto x = view(std::as_const(batch.x), batch.shape);
           FrameworkHooks(batch.layer)
               .double_backward(batch.layer.saved(), BackwardSums{}, {x, x, {}, {}, {}, {}, {}});
         });
       }},
      {"forward: one element per channel",
       [] {
         return outcome([] {
           const std::vector<float> x(1);
           std::vector<float> y(1);
           SyncBatchNorm(1).forward(view(x, Shape{1, 1}), view(y, Shape{1, 1}));
         });
       }},
      {"forward: statistics that are not finite",
       [] {
         SyncBatchNormOptions options;
         options.nonfinite = Nonfinite::error;
         Batch batch(options);
         batch.x[0] = INFINITY;
         return outcome([&] { batch.forward(good); });
       }},
      {"joint call: already started",
       [] {
         return joint([](JointCall& call, Batch& first, Batch&) {
           add(call, first, first.x.data());
           call.start();
           add(call, first, first.x.data());
         });
       }},
      {"joint call: of another group",
       [] {
         return joint([](JointCall& call, Batch& first, Batch&) {
           create_group("other", {1, 0});
           SyncBatchNormOptions options;
           options.process_group = "other";
           Batch second(options);
           add(call, first, first.x.data());
           add(call, second, second.x.data());
         });
       }},
      {"joint call: memory of a call that was added",
       [] {
         return joint([](JointCall& call, Batch& first, Batch& second) {
           add(call, first, first.x.data());
           add(call, second, first.y.data());
         });
       }},
      {"joint call: never finished",
       [] {
         return joint([](JointCall& call, Batch& first, Batch&) {
           add(call, first, first.x.data());
           call.start();
           call = JointCall();
           first.forward(good);
         });
       }},
  };
}

}  // namespace syncbn::testing
