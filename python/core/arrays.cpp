// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include <fmt/core.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/dtypes.h"
#include "errors.h"
#include "syncbn/error.h"
#include "syncbn/framework.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace syncbn::python {
namespace {

// NumPy's array interface, version 3, which the capsule __array_struct__ holds. Reading the capsule takes 0.1
// µs, a DLPack capsule more than 1 µs. The interface also has bfloat16 and needs no NumPy headers.
struct ArrayInterface {
  static constexpr int kAligned = 0x100, kNotSwapped = 0x200;

  int two;
  int dimensions;
  char kind;
  int item_size;
  int flags;
  Py_intptr_t* shape;
  Py_intptr_t* strides;
  void* data;
  PyObject* description;
};

// Memory orders in which an array is dense. An array is dense in both if a size of 1 or 0 makes them equal.
using Orders = unsigned;
constexpr Orders kFirst = 1, kLast = 2, kNone = 0;

// NumPy functions in use.
struct NumPy {
  nb::object empty_like, copyto;

  static const NumPy& get() {
    static const NumPy* const functions = [] {  // never destroyed: the interpreter ends first
      const nb::module_ numpy = nb::module_::import_("numpy");
      return new NumPy{numpy.attr("empty_like"), numpy.attr("copyto")};
    }();
    return *functions;
  }
};

// An array of a call, with its axes in the order (N, C, spatial...).
class Array {
 public:
  // @throws TypeError; InvalidArgument fewer than two axes
  Array(const char* name, nb::object array, bool channels_last)
      : name_(name), channels_last_(channels_last), object_(std::move(array)) {
    read();
  }

  const nb::object& object() const { return object_; }
  DType dtype() const { return dtype_; }
  Orders orders() const { return orders_; }
  const std::vector<std::int64_t>& sizes() const { return sizes_; }
  TensorView view(const Shape& shape, Orders order) const {
    return {interface_->data, dtype_, shape,
            (order & kFirst) != 0 ? Layout::channels_first : Layout::channels_last};
  }

  // Copies the array if its memory is dense in neither order.
  void copy_unless_dense() {
    if (orders_ != kNone) return;
    object_ = nb::getattr(object_, "copy")();  // C order, aligned
    read();
  }
  // Copies the array if its memory order differs from `other`'s. A difference in shape or dtype is left for
  // the layer to report.
  void make_like(const Array& other) {
    if ((orders_ & other.orders_) != kNone || sizes_ != other.sizes_ || dtype_ != other.dtype_) return;
    nb::object copy = NumPy::get().empty_like(other.object_);
    NumPy::get().copyto(copy, object_);
    object_ = std::move(copy);
    read();
  }

 private:
  void read() {
    capsule_ = nb::getattr(object_, "__array_struct__");
    interface_ = static_cast<const ArrayInterface*>(PyCapsule_GetPointer(capsule_.ptr(), nullptr));
    if (interface_ == nullptr) throw nb::python_error();
    dtype_ = read_dtype();
    const auto dimensions = static_cast<std::size_t>(interface_->dimensions);
    if (dimensions < 2) {
      throw InvalidArgument(fmt::format("{}: shape {}, expected at least two axes ({})", name_, text("shape"),
                                        channels_last_ ? "N, ..., C" : "N, C, ..."));
    }
    const auto fill = [&](std::vector<std::int64_t>& to, const Py_intptr_t* from) {
      to.assign(from, from + dimensions);
      if (!channels_last_) return;
      to.insert(to.begin() + 1, to.back());
      to.pop_back();
    };
    std::vector<std::int64_t> strides;
    fill(sizes_, interface_->shape);
    if (sizes_[1] == 0)  // the error of Shape would not name the array
      throw InvalidArgument(fmt::format("{}: shape {}, expected C >= 1", name_, text("shape")));
    fill(strides, interface_->strides);
    orders_ = (interface_->flags & ArrayInterface::kAligned) == 0 ? kNone : dense_orders(strides);
  }

  DType read_dtype() const {
    if ((interface_->flags & ArrayInterface::kNotSwapped) != 0) {
      if (interface_->kind == 'f' && interface_->item_size == 4) return DType::float32;
      if (interface_->kind == 'f' && interface_->item_size == 8) return DType::float64;
      if (interface_->kind == 'f' && interface_->item_size == 2) return DType::float16;
      // ml_dtypes' type: NumPy has no bfloat16.
      if (interface_->item_size == 2 && text("dtype") == "bfloat16") return DType::bfloat16;
    }
    throw nb::type_error(
        fmt::format("{}: dtype {}, expected {}", name_, text("dtype"), base::dtype_names()).c_str());
  }

  Orders dense_orders(const std::vector<std::int64_t>& strides) const {
    bool first = true, last = true;
    std::int64_t next_first = interface_->item_size, next_last = interface_->item_size;
    const auto step = [this, &strides](std::size_t axis, bool& dense, std::int64_t& next) {
      dense = dense && (sizes_[axis] == 1 || strides[axis] == next);
      next *= sizes_[axis];
    };
    const std::size_t axes = sizes_.size();
    step(1, last, next_last);
    for (std::size_t axis = axes - 1; axis > 1; --axis) {
      step(axis, first, next_first);
      step(axis, last, next_last);
    }
    step(1, first, next_first);
    step(0, first, next_first);
    step(0, last, next_last);
    if (next_first == 0) return kFirst | kLast;  // no elements
    return (first ? kFirst : kNone) | (last ? kLast : kNone);
  }

  std::string text(const char* attribute) const {
    return nb::cast<std::string>(nb::str(nb::getattr(object_, attribute)));
  }

  const char* name_;
  bool channels_last_;
  nb::object object_;
  nb::object capsule_;  // owns the memory behind interface_
  const ArrayInterface* interface_ = nullptr;
  DType dtype_ = DType::float32;
  std::vector<std::int64_t> sizes_;
  Orders orders_ = kNone;
};

// State that a forward on arrays keeps for its backward. x and, under ReLU, y are references, not copies.
struct ForwardContext {
  Saved saved;
  nb::object x, y;
  bool has_residual = false;
};

Direction direction_of(const ForwardContext* context) {
  return context == nullptr ? Direction::forward : Direction::backward;
}

// Tells the peers of an error that came before the layer's call: in a forward, or, if `context` is given, in
// the backward of that forward.
void fail(SyncBatchNorm& layer, const std::string& reason, const ForwardContext* context) {
  FrameworkHooks hooks(layer);
  if (!(context == nullptr ? layer.training() : hooks.is_collective(context->saved))) return;
  {
    const nb::gil_scoped_release unlocked;
    hooks.fail(direction_of(context), reason);
  }
  forget_exception();  // raised by an engine that could not reach the peers
}

// Runs `prepare`, the steps before the layer's call. If they fail, the peers get an error instead of waiting.
template <class Prepare>
void prepare_or_fail(SyncBatchNorm& layer, const ForwardContext* context, const Prepare& prepare) {
  const auto text = [&](const std::exception& error) {
    return fmt::format("{} ({})", error.what(), describe_call(direction_of(context), layer.name()));
  };
  try {
    try {
      prepare();
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(text(error));
    } catch (const nb::builtin_exception& error) {
      throw nb::type_error(text(error).c_str());
    }
  } catch (const std::exception& error) {
    fail(layer, error.what(), context);
    throw;
  }
}

nb::object forward(SyncBatchNorm& layer, ForwardContext& context, const nb::object& x_object,
                   const nb::object& residual_object, bool channels_last) {
  std::optional<Array> x, y, residual;
  std::optional<ForwardTensors> tensors;
  prepare_or_fail(layer, nullptr, [&] {
    x.emplace("x", x_object, channels_last);
    x->copy_unless_dense();
    y.emplace("y", NumPy::get().empty_like(x->object()), channels_last);
    Orders order = x->orders() & y->orders();
    if (!residual_object.is_none()) {
      residual.emplace("residual", residual_object, channels_last);
      residual->make_like(*x);
      if ((order & residual->orders()) != kNone) order &= residual->orders();
    }
    const Shape shape{std::span<const std::int64_t>(x->sizes())};
    tensors.emplace(ForwardTensors{.x = x->view(shape, order), .y = y->view(shape, order)});
    if (residual) {
      tensors->residual = residual->view(Shape(std::span<const std::int64_t>(residual->sizes())), order);
    }
  });
  {
    const nb::gil_scoped_release unlocked;
    layer.forward(*tensors, context.saved);
  }
  context.x = x->object();
  context.has_residual = residual.has_value();
  if (layer.options().activation != Activation::none) context.y = y->object();
  return y->object();
}

nb::object backward(SyncBatchNorm& layer, const ForwardContext& context, const nb::object& dy_object,
                    bool channels_last) {
  std::optional<Array> dy, x, y, dx, d_residual;
  std::optional<BackwardTensors> tensors;
  prepare_or_fail(layer, &context, [&] {
    if (!context.x.is_valid()) throw InvalidArgument("no forward was made before it");
    x.emplace("x", context.x, channels_last);
    dy.emplace("dy", dy_object, channels_last);
    dy->make_like(*x);
    dx.emplace("dx", NumPy::get().empty_like(context.x), channels_last);
    Orders order = x->orders() & dx->orders();
    if ((order & dy->orders()) != kNone) order &= dy->orders();
    if (context.y.is_valid()) {  // the caller has it too, and may have changed its shape
      y.emplace("y", context.y, channels_last);
      y->make_like(*x);
      if ((order & y->orders()) != kNone) order &= y->orders();
    }
    const Shape shape{std::span<const std::int64_t>(x->sizes())};
    tensors.emplace(BackwardTensors{.dy = dy->view(Shape(std::span<const std::int64_t>(dy->sizes())), order),
                                    .x = x->view(shape, order),
                                    .dx = dx->view(shape, order)});
    if (y) tensors->y = y->view(Shape(std::span<const std::int64_t>(y->sizes())), order);
    if (context.has_residual) {
      tensors->d_residual =
          d_residual.emplace("d_residual", NumPy::get().empty_like(context.x), channels_last)
              .view(shape, order);
    }
  });
  {
    const nb::gil_scoped_release unlocked;
    layer.backward(context.saved, *tensors);
  }
  if (!d_residual) return dx->object();
  return nb::make_tuple(dx->object(), d_residual->object());
}

}  // namespace

void bind_arrays(nb::module_& m, nb::class_<SyncBatchNorm>& layer) {
  nb::class_<ForwardContext>(m, "ForwardContext").def(nb::init<>());
  layer.def("fail", &fail, "reason"_a, "context"_a.none() = nb::none());
  layer.def("forward", &forward, "context"_a, "x"_a, "residual"_a.none(), "channels_last"_a,
            nb::sig("def forward(self, context: ForwardContext, x: typing.Any, residual: typing.Any, "
                    "channels_last: bool) -> typing.Any"));
  layer.def("backward", &backward, "context"_a, "dy"_a, "channels_last"_a,
            nb::sig("def backward(self, context: ForwardContext, dy: typing.Any, channels_last: bool) "
                    "-> typing.Any"));
}

}  // namespace syncbn::python
