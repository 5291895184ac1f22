// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/kernels.h"
#include "layer/collective_call.h"
#include "layer/core.h"
#include "syncbn/framework.h"

/// The three calls of a layer as parts of a CollectiveCall.
namespace syncbn::layer {

kernels::Geometry geometry_of(const ConstTensorView& x);
template <class View>
auto* data_or_null(const std::optional<View>& view) {
  return view ? view->data : nullptr;
}
/// Makes all columns of a Saved or of BackwardSums hold one value a channel. The values are unspecified.
template <class Struct>
void resize_columns(Struct& columns, std::int64_t channels, const DeviceMemory& memory) {
  for (const auto column : Struct::kColumns)
    (columns.*column).resize(static_cast<std::size_t>(channels), memory);
}

/// Common members of the parts: the layer, and what its call needs of x.
class LayerPart : public CallPart {
 public:
  void check() final {
    check_arguments();
    kernels_ = &layer_.device.kernels(geometry_.dtype);
  }

 protected:
  LayerPart(Core& layer, const ConstTensorView& x) : layer_(layer), geometry_(geometry_of(x)) {}
  virtual void check_arguments() const = 0;
  const exact::SumFormat& format() const { return exact::sum_format(geometry_.dtype); }
  /// Length of the records of all channels.
  std::size_t record_words() const {
    return static_cast<std::size_t>(layer_.num_features * format().words());
  }

  Core& layer_;
  const kernels::Geometry geometry_;
  const kernels::Kernels* kernels_ = nullptr;  // from check() on: an unchecked dtype has none
};

class ForwardPart final : public LayerPart {
 public:
  /// `tensors` and `result` stay in place until commit().
  ForwardPart(Core& layer, const ForwardTensors& tensors, Saved& result, Tracking tracking, Workspace& work);

  std::size_t words() const override;
  void write_sums(std::span<std::int64_t> message) override;
  void compute_results(std::span<const std::int64_t> message) override;
  void compute_locally() override;
  void commit() override;

 private:
  void check_arguments() const override;
  void train_alone();
  void evaluate();
  void prepare(Saved::Statistics statistics);
  void require_two() const;
  void check_finite() const;
  kernels::ForwardCall call() const;

  const ForwardTensors& tensors_;
  Saved& result_;
  const Tracking tracking_;
  Workspace& work_;
};

class BackwardPart final : public LayerPart {
 public:
  /// `tensors` and `from` stay in place until commit(). `result` may be null.
  BackwardPart(Core& layer, const BackwardTensors& tensors, const Saved& from, BackwardSums* result,
               Workspace& work);

  std::size_t words() const override;
  void write_sums(std::span<std::int64_t> message) override;
  void compute_results(std::span<const std::int64_t> message) override;
  void compute_locally() override;
  void commit() override;

 private:
  void check_arguments() const override;
  void prepare();
  kernels::BackwardCall call() const;

  const BackwardTensors& tensors_;
  const Saved& from_;
  BackwardSums* const result_;
  Workspace& work_;
};

class DoubleBackwardPart final : public LayerPart {
 public:
  DoubleBackwardPart(Core& layer, const Saved& from, const BackwardSums& sums,
                     const DoubleBackwardTensors& tensors);

  std::size_t words() const override;
  void write_sums(std::span<std::int64_t> message) override;
  void compute_results(std::span<const std::int64_t> message) override;
  void compute_locally() override;
  void commit() override {}

 private:
  void check_arguments() const override;
  kernels::DoubleBackwardCall call();

  const Saved& from_;
  const BackwardSums& sums_;
  const DoubleBackwardTensors& tensors_;
  Column own_q_;
};

}  // namespace syncbn::layer
