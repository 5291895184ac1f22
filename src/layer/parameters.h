#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "syncbn/sync_batch_norm.h"

namespace syncbn::layer {

/// One value per channel in the layer's dtype. Read as double, which is exact; written with one rounding.
class ChannelValues {
 public:
  ChannelValues(DType dtype, std::int64_t channels, double value);

  double operator[](std::int64_t channel) const;
  void set(std::int64_t channel, double value);
  void fill(double value);
  StateEntry entry(std::string name);

 private:
  DType dtype_;
  std::size_t size_;
  std::vector<std::byte> bytes_;
};

/// Parameters, buffers and gradients of a layer; what its options leave out is absent.
struct Parameters {
  Parameters(std::int64_t num_features, const SyncBatchNormOptions& options);

  void reset_running_stats();
  void reset();
  std::vector<StateEntry> state();

  std::optional<ChannelValues> weight, bias;
  std::optional<ChannelValues> running_mean, running_var;
  std::optional<std::int64_t> num_batches_tracked;
  std::optional<ChannelValues> weight_grad, bias_grad;
};

}  // namespace syncbn::layer
