// SPDX-License-Identifier: Apache-2.0
#include "groups.h"

#include <fmt/core.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cmath>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "addresses.h"
#include "communicator.h"
#include "environment/backend_names.h"
#include "syncbn/error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

Backend backend_of(const std::string& name) {
  if (const auto backend = environment::backend_named(name)) return *backend;
  throw nb::value_error(("backend: '" + name + "', expected auto, gloo, mpi or simulation").c_str());
}

std::optional<std::chrono::milliseconds> milliseconds_of(std::optional<double> seconds) {
  if (!seconds) return std::nullopt;
  if (!(*seconds > 0 && *seconds < 1e9)) {
    throw InvalidArgument(fmt::format("timeout: {} s, expected a number of seconds above 0", *seconds));
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(*seconds * 1000)));
}

// Runs the ranks as threads. The Python caller keeps the exceptions of the bodies and chooses which to raise,
// so the text of an exception is enough here.
void run_python_ranks(int size, const nb::callable& body) {
  nb::gil_scoped_release unlocked;
  run_ranks(size, [&](int rank) {
    nb::gil_scoped_acquire locked;
    try {
      body(rank);
    } catch (const nb::python_error& error) {
      throw std::runtime_error(nb::cast<std::string>(nb::str(error.type().attr("__name__"))) + ": " +
                               nb::cast<std::string>(nb::str(error.value())));
    }
  });
}

}  // namespace

void bind_groups(nb::module_& m) {
  nb::class_<GroupHandle>(m, "Group", nb::is_weak_referenceable());
  m.def(
      "make_group",
      [](const std::string& name, nb::object engine, std::optional<double> timeout,
         const std::string& timeout_setting) {
        return GroupHandle{make_group(name, python_communicator(std::move(engine)), milliseconds_of(timeout),
                                      timeout_setting)};
      },
      "name"_a, "engine"_a, "timeout"_a.none() = nb::none(), "timeout_setting"_a = "");
  m.def(
      "init", [](const std::string& backend) { init(backend_of(backend)); }, "backend"_a, Unlocked());
  m.def(
      "init_as",
      [](int rank, int size, const std::string& host, int port, const std::string& backend,
         std::optional<double> timeout, const std::string& token) {
        init(InitOptions{rank, size, host, port, backend_of(backend), milliseconds_of(timeout), token});
      },
      "rank"_a, "size"_a, "host"_a, "port"_a, "backend"_a, "timeout"_a.none(), "token"_a, Unlocked());
  m.def(
      "all_reduce_sum",
      [](std::uintptr_t address, std::size_t size, bool float64, const std::string& group) {
        if (float64) {
          all_reduce_sum(std::span(static_cast<double*>(at(address)), size), group);
        } else {
          all_reduce_sum(std::span(static_cast<float*>(at(address)), size), group);
        }
      },
      "address"_a, "size"_a, "float64"_a, "group"_a, Unlocked());
  m.def(
      "all_reduce_matmul",
      [](const nb::tuple& a, const nb::tuple& b, const nb::tuple& c, const std::string& group) {
        const auto view = [](const nb::tuple& matrix) {
          return TensorView{at(nb::cast<std::uintptr_t>(matrix[0])), nb::cast<DType>(matrix[2]),
                            shape_of(nb::cast<nb::tuple>(matrix[1]))};
        };
        const TensorView views[] = {view(a), view(b), view(c)};
        const nb::gil_scoped_release unlocked;
        all_reduce_matmul(views[0], views[1], views[2], group);
      },
      "a"_a, "b"_a, "c"_a, "group"_a);  // each an address, a shape and a dtype
  m.def("is_initialized", &is_initialized);
  m.def("release", &release, Unlocked());
  m.def("create_group", &create_group, "name"_a, "ranks"_a);
  m.def("new_group", &new_group, "ranks"_a);
  m.def("destroy_group", &destroy_group, "name"_a, Unlocked());
  m.def("get_rank", &get_rank, "group"_a);
  m.def("get_group_size", &get_group_size, "group"_a);
  m.def("get_local_rank", &get_local_rank, "group"_a);
  m.def("get_local_rank_size", &get_local_rank_size, "group"_a);
  m.def("get_world_rank_from_group_rank", &get_world_rank_from_group_rank, "group"_a, "group_rank"_a);
  m.def("get_group_rank_from_world_rank", &get_group_rank_from_world_rank, "world_rank"_a, "group"_a);
  m.def("run_ranks", &run_python_ranks, "size"_a, "body"_a);
}

}  // namespace syncbn::python
