// SPDX-License-Identifier: Apache-2.0
#include "framework.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#include "addresses.h"
#include "errors.h"
#include "syncbn/framework.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

using Address = std::uintptr_t;

// Saved and BackwardSums are written as doubles into memory that a framework owns and may keep, drop, offload
// or recompute. Saved is a head of two numbers (the kind of statistics and the count), then columns of (C,).
// BackwardSums is columns alone.
constexpr std::int64_t kSavedHead = 2;

template <class Struct>
void read(const double* from, std::int64_t channels, Struct& to) {
  for (const auto column : Struct::kColumns) {
    (to.*column).assign(from, from + channels);
    from += channels;
  }
}
template <class Struct>
void write(const Struct& from, double* to) {
  for (const auto column : Struct::kColumns) to = std::copy((from.*column).begin(), (from.*column).end(), to);
}

void read_saved(Address address, std::int64_t channels, Saved& saved) {
  const auto* from = static_cast<const double*>(at(address));
  saved.statistics = static_cast<Saved::Statistics>(static_cast<int>(from[0]));
  saved.count = static_cast<std::int64_t>(from[1]);  // at most 2^53
  read(from + kSavedHead, channels, saved);
}
void write_saved(const Saved& saved, Address address) {
  auto* to = static_cast<double*>(at(address));
  to[0] = static_cast<double>(saved.statistics);
  to[1] = static_cast<double>(saved.count);
  write(saved, to + kSavedHead);
}

// Addresses of one call's parameters and buffers, in the order of kValues.
using Values = std::array<Address, 5>;
constexpr std::array<const char*, 5> kValues = {"weight", "bias", "running_mean", "running_var",
                                                "num_batches_tracked"};

Values values_of(const nb::tuple& addresses) {
  Values values{};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = nb::cast<Address>(addresses[i]);
  return values;
}

// A layer whose parameters and buffers belong to a framework, which gives their addresses at each call. Calls
// from several threads run one after the other. The GIL is released before a call locks the layer: a thread
// that waited for the lock with the GIL would deadlock with the thread that has the lock.
class FrameworkLayer {
 public:
  FrameworkLayer(nb::object layer, std::string naming)
      : owner_(std::move(layer)), layer_(nb::cast<SyncBatchNorm&>(owner_)), hooks_(layer_) {
    hooks_.set_naming(std::move(naming));
  }

  // All calls take the number of the framework's layer.

  // Normalizes, and writes what the backward needs to `saved`. With `track`, a training call also updates the
  // running statistics.
  void forward(std::int64_t number, Address saved_address, const nb::tuple& addresses, Address x, Address y,
               Address residual, const nb::tuple& shape, DType dtype, Layout layout, bool training,
               bool track) {
    const TensorForm form{shape_of(shape), dtype, layout};
    const Values values = values_of(addresses);
    const nb::gil_scoped_release unlocked;
    const std::lock_guard lock(calls_);
    bind(values);
    hooks_.identify(number);
    layer_.set_train(training);
    hooks_.normalize({.x = form(x), .y = form(y), .residual = form.optional(residual)}, saved_);
    if (track) hooks_.track(saved_);
    write_saved(saved_, saved_address);
  }

  void track(Address saved_address, const nb::tuple& addresses) {
    const Values values = values_of(addresses);
    const nb::gil_scoped_release unlocked;
    const std::lock_guard lock(calls_);
    bind(values);
    hooks_.track(saved_at(saved_address));
  }

  void backward(std::int64_t number, Address saved_address, Address sums_address, Address dy, Address x,
                Address y, Address dx, Address d_residual, Address d_weight, Address d_bias,
                const nb::tuple& shape, DType dtype, Layout layout) {
    const TensorForm form{shape_of(shape), dtype, layout};
    const nb::gil_scoped_release unlocked;
    const std::lock_guard lock(calls_);
    hooks_.identify(number);
    bind_value("weight_grad", layer_.options().affine, d_weight);
    bind_value("bias_grad", layer_.options().affine && layer_.options().bias, d_bias);
    const Saved& saved = saved_at(saved_address);
    const BackwardTensors tensors{.dy = form(dy),
                                  .x = form(x),
                                  .y = output(form, y),
                                  .dx = form.optional(dx),
                                  .d_residual = form.optional(d_residual)};
    if (sums_address == 0) {
      layer_.backward(saved, tensors);
      return;
    }
    hooks_.backward(saved, tensors, sums_);
    write(sums_, static_cast<double*>(at(sums_address)));
  }

  void double_backward(std::int64_t number, Address saved_address, Address sums_address, Address dy,
                       Address x, Address y, Address ddx, Address dd_residual, Address dd_weight,
                       Address dd_bias, Address d_dy, Address d_x, Address d_weight, const nb::tuple& shape,
                       DType dtype, Layout layout) {
    const TensorForm form{shape_of(shape), dtype, layout};
    const nb::gil_scoped_release unlocked;
    const std::lock_guard lock(calls_);
    hooks_.identify(number);
    const Saved& saved = saved_at(saved_address);
    read(static_cast<const double*>(at(sums_address)), layer_.num_features(), sums_);
    const auto input = [&](Address address) -> std::optional<ConstTensorView> {
      if (address == 0) return std::nullopt;
      return form(address);
    };
    hooks_.double_backward(saved, sums_,
                           {.dy = form(dy),
                            .x = form(x),
                            .y = output(form, y),
                            .ddx = input(ddx),
                            .dd_residual = input(dd_residual),
                            .d_dy = form.optional(d_dy),
                            .d_x = form.optional(d_x),
                            .dd_weight = at(dd_weight),
                            .dd_bias = at(dd_bias),
                            .d_weight = at(d_weight)});
  }

  // Tells the peers that this rank can't make its training call.
  void fail(Direction direction, const std::string& reason) {
    {
      const nb::gil_scoped_release unlocked;
      const std::lock_guard lock(calls_);
      hooks_.fail(direction, reason);
    }
    forget_exception();  // raised by an engine that could not reach the peers
  }

  const std::string& name() const { return layer_.name(); }
  std::int64_t num_features() const { return layer_.num_features(); }
  std::int64_t saved_size() const { return kSavedHead + std::ssize(Saved::kColumns) * layer_.num_features(); }
  std::int64_t sums_size() const { return std::ssize(BackwardSums::kColumns) * layer_.num_features(); }

 private:
  // The forward's output, which only the gradient of ReLU needs. An empty tensor's address may be 0.
  std::optional<ConstTensorView> output(const TensorForm& form, Address y) const {
    if (layer_.options().activation != Activation::relu) return std::nullopt;
    return form(y);
  }
  // Call it with the layer locked.
  const Saved& saved_at(Address address) {
    read_saved(address, layer_.num_features(), saved_);
    return saved_;
  }
  // A value whose address is 0 falls back to the layer's own memory, which nothing else reads.
  void bind_value(const char* name, bool exists, Address address) {
    if (exists || address != 0) hooks_.bind(name, at(address));
  }
  void bind(const Values& values) {
    const SyncBatchNormOptions& o = layer_.options();
    const bool exist[] = {o.affine, o.affine && o.bias, o.track_running_stats, o.track_running_stats,
                          o.track_running_stats};
    for (std::size_t i = 0; i < values.size(); ++i) bind_value(kValues[i], exist[i], values[i]);
  }

  nb::object owner_;
  SyncBatchNorm& layer_;
  FrameworkHooks hooks_;
  std::mutex calls_;
  // Columns of the call that has the lock. As members they are allocated once.
  Saved saved_;
  BackwardSums sums_;
};

}  // namespace

void bind_framework(nb::module_& m) {
  // For shapes that are symbolic while a framework traces. Else FrameworkLayer has the sizes.
  m.attr("saved_head") = kSavedHead;
  m.attr("saved_columns") = std::size(Saved::kColumns);
  m.attr("sums_columns") = std::size(BackwardSums::kColumns);
  m.def("next_layer_number", &next_layer_number);
  nb::enum_<Direction>(m, "Direction")
      .value("forward", Direction::forward)
      .value("backward", Direction::backward)
      .value("double_backward", Direction::double_backward);
  m.def("describe_call", &describe_call, "direction"_a, "layer_name"_a);
  // Tensors are given by keyword only: all are integers, so a swapped pair would go unnoticed.
  nb::class_<FrameworkLayer>(m, "FrameworkLayer")
      .def(nb::init<nb::object, std::string>(), "layer"_a, "naming"_a)
      .def_prop_ro("name", &FrameworkLayer::name)
      .def_prop_ro("num_features", &FrameworkLayer::num_features)
      .def_prop_ro("saved_size", &FrameworkLayer::saved_size)
      .def_prop_ro("sums_size", &FrameworkLayer::sums_size)
      .def("forward", &FrameworkLayer::forward, nb::kw_only(), "number"_a, "saved"_a, "values"_a, "x"_a,
           "y"_a, "residual"_a, "shape"_a, "dtype"_a, "layout"_a, "training"_a, "track"_a)
      .def("track", &FrameworkLayer::track, nb::kw_only(), "saved"_a, "values"_a)
      .def("backward", &FrameworkLayer::backward, nb::kw_only(), "number"_a, "saved"_a, "sums"_a, "dy"_a,
           "x"_a, "y"_a, "dx"_a, "d_residual"_a, "d_weight"_a, "d_bias"_a, "shape"_a, "dtype"_a, "layout"_a)
      .def("double_backward", &FrameworkLayer::double_backward, nb::kw_only(), "number"_a, "saved"_a,
           "sums"_a, "dy"_a, "x"_a, "y"_a, "ddx"_a, "dd_residual"_a, "dd_weight"_a, "dd_bias"_a, "d_dy"_a,
           "d_x"_a, "d_weight"_a, "shape"_a, "dtype"_a, "layout"_a)
      .def("fail", &FrameworkLayer::fail, "direction"_a, "reason"_a);
}

}  // namespace syncbn::python
