#include "layer.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "addresses.h"
#include "groups.h"
#include "syncbn/sync_batch_norm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

template <class Enum>
Enum chosen(const char* argument, const std::string& name, std::span<const char* const> names) {
  std::string all;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<Enum>(i);
    all += (i == 0 ? "'" : ", '") + std::string(names[i]) + "'";
  }
  throw nb::value_error((std::string(argument) + ": '" + name + "', expected one of " + all).c_str());
}

SyncBatchNormOptions options_of(double eps, std::optional<double> momentum, bool affine, bool bias,
                                bool track_running_stats,
                                const std::variant<std::monostate, std::string, GroupHandle>& process_group,
                                DType dtype, const std::string& affine_gradients,
                                const std::string& nonfinite, const std::string& activation,
                                const std::string& name) {
  static constexpr const char* kAffineGradients[] = {"local", "group"};
  static constexpr const char* kNonfinite[] = {"propagate", "skip_update", "error"};
  static constexpr const char* kActivation[] = {"none", "relu"};
  SyncBatchNormOptions options;
  options.eps = eps;
  options.momentum = momentum;
  options.affine = affine;
  options.bias = bias;
  options.track_running_stats = track_running_stats;
  if (const auto* group_name = std::get_if<std::string>(&process_group)) options.process_group = *group_name;
  if (const auto* handle = std::get_if<GroupHandle>(&process_group)) options.process_group = handle->group;
  options.dtype = dtype;
  options.affine_gradients = chosen<AffineGradients>("affine_gradients", affine_gradients, kAffineGradients);
  options.nonfinite = chosen<Nonfinite>("nonfinite", nonfinite, kNonfinite);
  options.activation = chosen<Activation>("activation", activation, kActivation);
  options.name = name;
  return options;
}

void forward_at(SyncBatchNorm& layer, Saved& saved, std::uintptr_t x, std::uintptr_t y,
                std::uintptr_t residual, const nb::tuple& shape, DType dtype, Layout layout) {
  const Form form{shape_of(shape), dtype, layout};
  nb::gil_scoped_release unlocked;
  layer.forward({form(x), form(y), form.optional(residual)}, saved);
}

void backward_at(SyncBatchNorm& layer, const Saved& saved, std::uintptr_t dy, std::uintptr_t x,
                 std::uintptr_t y, std::uintptr_t dx, std::uintptr_t d_residual, const nb::tuple& shape,
                 DType dtype, Layout layout) {
  const Form form{shape_of(shape), dtype, layout};
  nb::gil_scoped_release unlocked;
  layer.backward(saved, {form(dy), form(x), form.optional(y), form.optional(dx), form.optional(d_residual)});
}

// Name, address, dtype (None: int64) and size of each parameter and buffer.
nb::list state_of(SyncBatchNorm& layer) {
  nb::list entries;
  for (const StateEntry& entry : layer.state()) {
    entries.append(
        nb::make_tuple(entry.name, reinterpret_cast<std::uintptr_t>(entry.data), entry.dtype, entry.size));
  }
  return entries;
}

nb::object vector_of(const std::vector<double>& values) {
  nb::list list;
  for (const double value : values) list.append(value);
  return list;
}

}  // namespace

void bind_layer(nb::module_& m) {
  nb::enum_<DType>(m, "DType")
      .value("float16", DType::float16)
      .value("bfloat16", DType::bfloat16)
      .value("float32", DType::float32)
      .value("float64", DType::float64);
  nb::enum_<Layout>(m, "Layout")
      .value("channels_first", Layout::channels_first)
      .value("channels_last", Layout::channels_last);

  nb::class_<Saved>(m, "Saved")
      .def(nb::init<>())
      .def_ro("count", &Saved::count)
      .def_prop_ro("mean", [](const Saved& s) { return vector_of(s.mean); })
      .def_prop_ro("var", [](const Saved& s) { return vector_of(s.var); })
      .def_prop_ro("invstd", [](const Saved& s) { return vector_of(s.invstd); });

  nb::class_<SyncBatchNorm>(m, "Layer")
      .def(
          "__init__",
          [](SyncBatchNorm* self, std::int64_t num_features, double eps, std::optional<double> momentum,
             bool affine, bool bias, bool track_running_stats,
             const std::variant<std::monostate, std::string, GroupHandle>& process_group, DType dtype,
             const std::string& affine_gradients, const std::string& nonfinite, const std::string& activation,
             const std::string& name) {
            new (self) SyncBatchNorm(
                num_features, options_of(eps, momentum, affine, bias, track_running_stats, process_group,
                                         dtype, affine_gradients, nonfinite, activation, name));
          },
          "num_features"_a, nb::kw_only(), "eps"_a = 1e-5, "momentum"_a.none() = 0.1, "affine"_a = true,
          "bias"_a = true, "track_running_stats"_a = true, "process_group"_a.none() = nb::none(),
          "dtype"_a = DType::float32, "affine_gradients"_a = "local", "nonfinite"_a = "propagate",
          "activation"_a = "none", "name"_a = "")
      .def_prop_ro("name", &SyncBatchNorm::name)
      .def_prop_rw("training", &SyncBatchNorm::training, &SyncBatchNorm::train)
      .def("state", &state_of)
      .def(
          "bind",
          [](SyncBatchNorm& layer, const char* name, std::uintptr_t address) {
            layer.bind(name, at(address));
          },
          "name"_a, "address"_a)
      .def("reset_parameters", &SyncBatchNorm::reset_parameters)
      .def("reset_running_stats", &SyncBatchNorm::reset_running_stats)
      .def("forward_at", &forward_at, "saved"_a, "x"_a, "y"_a, "residual"_a, "shape"_a, "dtype"_a, "layout"_a)
      .def("backward_at", &backward_at, "saved"_a, "dy"_a, "x"_a, "y"_a, "dx"_a, "d_residual"_a, "shape"_a,
           "dtype"_a, "layout"_a);
}

}  // namespace syncbn::python
