// SPDX-License-Identifier: Apache-2.0
#include "layer.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <cstdint>
#include <span>
#include <string>

#include "arrays.h"
#include "base/dtypes.h"
#include "groups.h"
#include "syncbn/framework.h"
#include "syncbn/sync_batch_norm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

template <class Enum>
Enum enumerator_of(const char* argument, const std::string& name, std::span<const char* const> names) {
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
  options.affine_gradients =
      enumerator_of<AffineGradients>("affine_gradients", affine_gradients, kAffineGradients);
  options.nonfinite = enumerator_of<Nonfinite>("nonfinite", nonfinite, kNonfinite);
  options.activation = enumerator_of<Activation>("activation", activation, kActivation);
  options.name = name;
  return options;
}

using Bytes = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>;

// The memory of each parameter, buffer and gradient by its name, as arrays of bytes. The arrays keep the
// layer alive.
nb::dict memory_of(nb::handle_t<SyncBatchNorm> self) {
  auto& layer = nb::cast<SyncBatchNorm&>(self);
  nb::dict memory;
  for (const auto& entries : {layer.state(), layer.gradients()}) {
    for (const StateEntry& entry : entries) {
      const std::size_t bytes = entry.size * (entry.dtype ? size_of(*entry.dtype) : sizeof(std::int64_t));
      memory[entry.name.c_str()] = nb::cast(Bytes(entry.data, {bytes}, self));
    }
  }
  return memory;
}

}  // namespace

void bind_layer(nb::module_& m) {
  nb::enum_<DType> dtypes(m, "DType");
  for (const DType dtype : base::kDTypes) dtypes.value(name_of(dtype), dtype);
  nb::enum_<Layout>(m, "Layout")
      .value("channels_first", Layout::channels_first)
      .value("channels_last", Layout::channels_last);

  nb::class_<SyncBatchNorm> layer_class(m, "Layer");
  layer_class
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
            FrameworkHooks(*self).set_naming("name=");
          },
          "num_features"_a, nb::kw_only(), "eps"_a = 1e-5, "momentum"_a.none() = 0.1, "affine"_a = true,
          "bias"_a = true, "track_running_stats"_a = true, "process_group"_a.none() = nb::none(),
          "dtype"_a = DType::float32, "affine_gradients"_a = "local", "nonfinite"_a = "propagate",
          "activation"_a = "none", "name"_a = "")
      .def_prop_ro("name", &SyncBatchNorm::name)
      .def_prop_rw("training", &SyncBatchNorm::training, &SyncBatchNorm::set_train)
      .def("memory", &memory_of)
      .def("reset_parameters", &SyncBatchNorm::reset_parameters)
      .def("reset_running_stats", &SyncBatchNorm::reset_running_stats);
  bind_arrays(m, layer_class);
}

}  // namespace syncbn::python
