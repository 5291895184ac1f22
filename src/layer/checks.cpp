#include "layer/checks.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "syncbn/error.h"

namespace syncbn::layer {
namespace {

const char* name_of(Layout layout) {
  return layout == Layout::channels_last ? "channels_last" : "channels_first";
}

void check_dtype(const char* name, DType dtype) {
  if (dtype > DType::float64) {
    throw InvalidArgument(fmt::format("{}: dtype {}, expected float16, bfloat16, float32 or float64", name,
                                      static_cast<int>(dtype)));
  }
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
  if (reinterpret_cast<std::uintptr_t>(t.data) % size_of(t.dtype) != 0) {
    throw InvalidArgument(fmt::format("{}: data at {}, expected an address aligned to {} bytes ({})", name,
                                      t.data, size_of(t.dtype), syncbn::name_of(t.dtype)));
  }
}

void check_x(const ConstTensorView& x, std::int64_t num_features) {
  check_data("x", x);
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
}

// Both have the same size.
template <class View, class Other>
void check_apart(const char* name, const View& t, const char* other_name, const Other& other) {
  const auto bytes = static_cast<std::uintptr_t>(t.shape.elements()) * size_of(t.dtype);
  const auto a = reinterpret_cast<std::uintptr_t>(t.data);
  const auto b = reinterpret_cast<std::uintptr_t>(other.data);
  if (a < b + bytes && b < a + bytes) {
    throw InvalidArgument(
        fmt::format("{}: {} bytes at {} overlap {} at {}", name, bytes, t.data, other_name, other.data));
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
  const auto* group = std::get_if<std::shared_ptr<Group>>(&options.process_group);
  if (group != nullptr && *group == nullptr) throw InvalidArgument("process_group: null, expected a group");
}

void check_forward(const ForwardTensors& t, std::int64_t num_features) {
  check_x(t.x, num_features);
  check_like_x("y", t.y, t.x);
  check_apart("y", t.y, "x", t.x);
  if (t.residual) {
    check_like_x("residual", *t.residual, t.x);
    check_apart("y", t.y, "residual", *t.residual);
  }
}

void check_backward(const BackwardTensors& t, std::int64_t num_features, bool relu) {
  check_x(t.x, num_features);
  check_like_x("dy", t.dy, t.x);
  if (relu && !t.y)
    throw InvalidArgument("y: none, expected the forward's output, which ReLU's gradient needs");
  if (t.y) check_like_x("y", *t.y, t.x);
  const auto check_output = [&](const char* name, const auto& out, bool may_be_dy) {
    check_like_x(name, out, t.x);
    check_apart(name, out, "x", t.x);
    if (t.y) check_apart(name, out, "y", *t.y);
    if (!may_be_dy || out.data != t.dy.data) check_apart(name, out, "dy", t.dy);
  };
  if (t.dx) check_output("dx", *t.dx, true);
  if (t.d_residual) {
    check_output("d_residual", *t.d_residual, false);
    if (t.dx) check_apart("d_residual", *t.d_residual, "dx", *t.dx);
  }
}

void check_double_backward(const DoubleBackwardTensors& t, std::int64_t num_features, bool relu) {
  check_backward({t.dy, t.x, t.y, std::nullopt, std::nullopt}, num_features, relu);
  if (t.ddx) check_like_x("ddx", *t.ddx, t.x);
  if (t.dd_residual) check_like_x("dd_residual", *t.dd_residual, t.x);
  const auto check_output = [&](const char* name, const auto& out) {
    check_like_x(name, out, t.x);
    check_apart(name, out, "x", t.x);
    check_apart(name, out, "dy", t.dy);
    if (t.y) check_apart(name, out, "y", *t.y);
    if (t.ddx) check_apart(name, out, "ddx", *t.ddx);
    if (t.dd_residual) check_apart(name, out, "dd_residual", *t.dd_residual);
  };
  if (t.d_dy) check_output("d_dy", *t.d_dy);
  if (t.d_x) check_output("d_x", *t.d_x);
  if (t.d_dy && t.d_x) check_apart("d_x", *t.d_x, "d_dy", *t.d_dy);
}

void check_saved(const Saved& saved, std::int64_t num_features) {
  for (const auto* values : {&saved.mean, &saved.var, &saved.invstd, &saved.scale, &saved.var_unbiased}) {
    if (static_cast<std::int64_t>(values->size()) == num_features) continue;
    throw InvalidArgument(
        fmt::format("saved: {} channels, expected num_features = {}", values->size(), num_features));
  }
}

void check_count(const Saved& saved, std::int64_t positions) {
  const bool share = saved.statistics == Saved::Statistics::group_batch;
  if (share ? positions <= saved.count : positions == saved.count) return;
  throw InvalidArgument(fmt::format("x: {} elements per channel, expected {}{}, as in the forward", positions,
                                    share ? "at most " : "", saved.count));
}

}  // namespace syncbn::layer
