// SPDX-License-Identifier: Apache-2.0
#include "layer/checks.h"

#include <fmt/core.h>

#include <cmath>
#include <optional>
#include <string_view>
#include <type_traits>

#include "base/dtypes.h"
#include "device/find.h"
#include "kernels/kernels.h"
#include "syncbn/error.h"

namespace syncbn::layer {
namespace {

const char* name_of(Layout layout) {
  return layout == Layout::channels_last ? "channels_last" : "channels_first";
}

void check_dtype(const char* name, DType dtype) {
  if (base::is_dtype(dtype)) return;
  throw InvalidArgument(
      fmt::format("{}: dtype {}, expected {}", name, static_cast<int>(dtype), base::dtype_names()));
}

template <class View>
std::size_t bytes_of(const View& t) {
  return static_cast<std::size_t>(t.shape.elements()) * size_of(t.dtype);
}

bool overlap(const Use& a, const Use& b) {
  const auto first = reinterpret_cast<std::uintptr_t>(a.data);
  const auto second = reinterpret_cast<std::uintptr_t>(b.data);
  return first <= second ? second - first < a.bytes && b.bytes != 0
                         : first - second < b.bytes && a.bytes != 0;
}

// Templates, for a TensorView that becomes a ConstTensorView copies its shape.
template <class View>
void check_data(const char* name, const View& t) {
  check_dtype(name, t.dtype);
  if (t.layout > Layout::channels_last) {
    throw InvalidArgument(fmt::format("{}: layout {}, expected channels_first or channels_last", name,
                                      static_cast<int>(t.layout)));
  }
  if (t.data == nullptr && t.shape.elements() != 0) {
    throw InvalidArgument(fmt::format("{}: null data, expected {} elements", name, t.shape.elements()));
  }
  if (bytes_of(t) > UINTPTR_MAX - reinterpret_cast<std::uintptr_t>(t.data)) {
    throw InvalidArgument(fmt::format("{}: {} bytes at {}, expected memory within the address space", name,
                                      bytes_of(t), t.data));
  }
  if (reinterpret_cast<std::uintptr_t>(t.data) % size_of(t.dtype) != 0) {
    throw InvalidArgument(fmt::format("{}: data at {}, expected an address aligned to {} bytes ({})", name,
                                      t.data, size_of(t.dtype), syncbn::name_of(t.dtype)));
  }
}

template <class View>
void check_device(const char* name, const View& t, Device expected, const char* whose) {
  if (t.device == expected) return;
  throw InvalidArgument(fmt::format("{}: on device {}, expected {} {}", name, kernels::to_string(t.device),
                                    whose, kernels::to_string(expected)));
}

void check_known(const char* name, Device device) {
  if (device::find(device) != nullptr) return;
  throw InvalidArgument(
      fmt::format("{}: {}, this library has {}", name, kernels::to_string(device), kernels::known_devices()));
}

void check_x(const ConstTensorView& x, std::int64_t num_features, const SyncBatchNormOptions& options) {
  check_data("x", x);
  check_device("x", x, options.device, "the layer's");
  if (x.shape.channels() != num_features) {
    throw InvalidArgument(
        fmt::format("x: shape {}, expected C = num_features = {}", x.shape.to_string(), num_features));
  }
}

template <class View>
void check_like_x(const char* name, const View& t, const ConstTensorView& x) {
  check_data(name, t);
  if (!(t.shape == x.shape)) {
    throw InvalidArgument(
        fmt::format("{}: shape {}, expected x's {}", name, t.shape.to_string(), x.shape.to_string()));
  }
  if (t.dtype != x.dtype) {
    throw InvalidArgument(
        fmt::format("{}: {}, expected x's {}", name, syncbn::name_of(t.dtype), syncbn::name_of(x.dtype)));
  }
  if (t.layout != x.layout) {
    throw InvalidArgument(fmt::format("{}: {}, expected x's {}", name, name_of(t.layout), name_of(x.layout)));
  }
  check_device(name, t, x.device, "x's");
}

template <class View>
void add_use(Uses& uses, const char* name, const View& t) {
  uses.add({name, t.data, bytes_of(t), std::is_same_v<View, TensorView>});
}
template <class View>
void add_use(Uses& uses, const char* name, const std::optional<View>& t) {
  if (t) add_use(uses, name, *t);
}

// Checks that what a call writes overlaps nothing that stands before it in `uses`. dx may be dy.
void check_apart(const Uses& uses) {
  const auto may_be = [](const Use& result, const Use& other) {
    return result.data == other.data && result.name == std::string_view("dx") &&
           other.name == std::string_view("dy");
  };
  for (const Use& result : uses) {
    if (!result.written) continue;
    for (const Use* other = uses.begin(); other != &result; ++other) {
      if (!overlap(result, *other) || may_be(result, *other)) continue;
      throw InvalidArgument(fmt::format("{}: {} bytes at {} overlap {} at {}", result.name, result.bytes,
                                        result.data, other->name, other->data));
    }
  }
}

Uses uses_of(const ForwardTensors& t) {
  Uses uses;
  add_use(uses, "x", t.x);
  add_use(uses, "residual", t.residual);
  add_use(uses, "y", t.y);
  return uses;
}

Uses uses_of(const BackwardTensors& t) {
  Uses uses;
  add_use(uses, "dy", t.dy);
  add_use(uses, "x", t.x);
  add_use(uses, "y", t.y);
  add_use(uses, "dx", t.dx);
  add_use(uses, "d_residual", t.d_residual);
  return uses;
}

template <class Struct>
void check_columns(const char* name, const Struct& columns, std::int64_t num_features,
                   const DeviceMemory& memory) {
  for (const auto column : Struct::kColumns) {
    const std::size_t channels = (columns.*column).size();
    if (static_cast<std::int64_t>(channels) != num_features) {
      throw InvalidArgument(
          fmt::format("{}: {} channels, expected num_features = {}", name, channels, num_features));
    }
    if (&(columns.*column).memory() != &memory)
      throw InvalidArgument(fmt::format("{}: columns of another device, expected the layer's", name));
  }
}

}  // namespace

void check_options(std::int64_t num_features, const SyncBatchNormOptions& options) {
  // Records of all channels must be addressable with room to spare.
  constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 31;
  if (num_features < 1 || num_features > kMaxFeatures) {
    throw InvalidArgument(fmt::format("num_features: {}, expected 1 to {}", num_features, kMaxFeatures));
  }
  if (!(options.eps >= 0) || !std::isfinite(options.eps)) {
    throw InvalidArgument(fmt::format("eps: {}, expected a finite number >= 0", options.eps));
  }
  if (options.momentum && !(*options.momentum >= 0 && *options.momentum <= 1)) {
    throw InvalidArgument(
        fmt::format("momentum: {}, expected none or a number in [0, 1]", *options.momentum));
  }
  check_dtype("dtype", options.dtype);
  if (options.affine_gradients > AffineGradients::group) {
    throw InvalidArgument(fmt::format("affine_gradients: {}, expected local or group",
                                      static_cast<int>(options.affine_gradients)));
  }
  if (options.nonfinite > Nonfinite::error) {
    throw InvalidArgument(fmt::format("nonfinite: {}, expected propagate, skip_update or error",
                                      static_cast<int>(options.nonfinite)));
  }
  if (options.activation > Activation::relu) {
    throw InvalidArgument(
        fmt::format("activation: {}, expected none or relu", static_cast<int>(options.activation)));
  }
  check_known("device", options.device);
  const auto* group = std::get_if<std::shared_ptr<Group>>(&options.process_group);
  if (group != nullptr && *group == nullptr) throw InvalidArgument("process_group: null, expected a group");
}

void check_forward(const ForwardTensors& t, std::int64_t num_features, const SyncBatchNormOptions& options) {
  check_x(t.x, num_features, options);
  check_like_x("y", t.y, t.x);
  if (t.residual) check_like_x("residual", *t.residual, t.x);
  check_apart(uses_of(t));
}

void check_backward(const BackwardTensors& t, std::int64_t num_features,
                    const SyncBatchNormOptions& options) {
  check_x(t.x, num_features, options);
  check_like_x("dy", t.dy, t.x);
  if (options.activation == Activation::relu && !t.y)
    throw InvalidArgument("y: none, expected the forward's output, which ReLU's gradient needs");
  if (t.y) check_like_x("y", *t.y, t.x);
  if (t.dx) check_like_x("dx", *t.dx, t.x);
  if (t.d_residual) check_like_x("d_residual", *t.d_residual, t.x);
  check_apart(uses_of(t));
}

void check_double_backward(const DoubleBackwardTensors& t, std::int64_t num_features,
                           const SyncBatchNormOptions& options) {
  check_backward({t.dy, t.x, t.y, std::nullopt, std::nullopt}, num_features, options);
  if (t.ddx) check_like_x("ddx", *t.ddx, t.x);
  if (t.dd_residual) check_like_x("dd_residual", *t.dd_residual, t.x);
  if (t.d_dy) check_like_x("d_dy", *t.d_dy, t.x);
  if (t.d_x) check_like_x("d_x", *t.d_x, t.x);
  const auto check_values = [&](const char* name, const void* data) {
    if (data != nullptr) check_data(name, ConstTensorView{data, options.dtype, {1, num_features}});
  };
  check_values("dd_weight", t.dd_weight);
  check_values("dd_bias", t.dd_bias);
  check_values("d_weight", t.d_weight);
  Uses uses;
  add_use(uses, "x", t.x);
  add_use(uses, "dy", t.dy);
  add_use(uses, "y", t.y);
  add_use(uses, "ddx", t.ddx);
  add_use(uses, "dd_residual", t.dd_residual);
  add_use(uses, "d_dy", t.d_dy);
  add_use(uses, "d_x", t.d_x);
  if (t.d_weight != nullptr) {
    uses.add({"d_weight", t.d_weight, static_cast<std::size_t>(num_features) * size_of(options.dtype), true});
  }
  check_apart(uses);
}

void check_matmul(const ConstTensorView& a, const ConstTensorView& b, const TensorView& c) {
  const auto check_matrix = [&](const char* name, const auto& t) {
    check_data(name, t);
    if (t.dtype != DType::float32 && t.dtype != DType::float64)
      throw InvalidArgument(
          fmt::format("{}: {}, expected float32 or float64", name, syncbn::name_of(t.dtype)));
    if (t.dtype != a.dtype) {
      throw InvalidArgument(
          fmt::format("{}: {}, expected a's {}", name, syncbn::name_of(t.dtype), syncbn::name_of(a.dtype)));
    }
    if (t.shape.dims().size() != 2) {
      throw InvalidArgument(
          fmt::format("{}: shape {}, expected two dimensions, rows and columns", name, t.shape.to_string()));
    }
    check_device(name, t, a.device, "a's");
  };
  check_known("a", a.device);
  check_matrix("a", a);
  check_matrix("b", b);
  check_matrix("c", c);
  if (b.shape.samples() != a.shape.samples()) {
    throw InvalidArgument(fmt::format("b: shape {}, expected {} rows, as a has in shape {}",
                                      b.shape.to_string(), a.shape.samples(), a.shape.to_string()));
  }
  const Shape products{a.shape.channels(), b.shape.channels()};
  if (!(c.shape == products)) {
    throw InvalidArgument(fmt::format("c: shape {}, expected {}, the columns of a and of b",
                                      c.shape.to_string(), products.to_string()));
  }
  Uses uses;
  add_use(uses, "a", a);
  add_use(uses, "b", b);
  add_use(uses, "c", c);
  check_apart(uses);
}

void check_saved(const Saved& saved, std::int64_t num_features, const DeviceMemory& memory) {
  if (saved.statistics == Saved::Statistics::none) throw InvalidArgument("no forward was made before it");
  check_columns("saved", saved, num_features, memory);
}

void check_saved_sums(const BackwardSums& sums, std::int64_t num_features, const DeviceMemory& memory) {
  check_columns("sums", sums, num_features, memory);
}

void check_count(const Saved& saved, std::int64_t positions) {
  const bool share = saved.statistics == Saved::Statistics::group_batch;
  if (share ? positions <= saved.count : positions == saved.count) return;
  throw InvalidArgument(fmt::format("x: {} elements per channel, expected {}{}, as in the forward", positions,
                                    share ? "at most " : "", saved.count));
}

Uses uses_of(const ForwardTensors& t, const Saved& saved) {
  Uses uses = uses_of(t);
  uses.add({"saved", &saved, sizeof saved, true});
  return uses;
}

Uses uses_of(const BackwardTensors& t, const Saved& saved) {
  Uses uses = uses_of(t);
  uses.add({"saved", &saved, sizeof saved, false});
  return uses;
}

void check_apart(const Uses& uses, const std::vector<Use>& before) {
  for (const Use& use : uses) {
    for (const Use& other : before) {
      if (!use.written && !other.written) continue;
      if (!overlap(use, other)) continue;
      throw InvalidArgument(
          fmt::format("{}: {} bytes at {} overlap {} of a call that was added before and is made at finish()",
                      use.name, use.bytes, use.data, other.name));
    }
  }
}

}  // namespace syncbn::layer
