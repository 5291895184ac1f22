#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "syncbn/dtype.h"
#include "syncbn/sync_batch_norm.h"

namespace syncbn::layer {

/// One value per channel in the layer's dtype, in memory of its own or the caller's. Read as double, which is
/// exact; written with one rounding.
class ChannelValues {
  template <class Body>
  auto with_type(const Body& body) const {
    switch (dtype_) {
      case DType::float16:
        return body(float16());
      case DType::bfloat16:
        return body(bfloat16());
      case DType::float32:
        return body(float());
      default:
        return body(double());
    }
  }

 public:
  ChannelValues(DType dtype, std::int64_t channels, double value);

  /// Reads and writes there from now on; null: in its own memory again. Copies nothing.
  void bind(void* memory) { bound_ = static_cast<std::byte*>(memory); }

  double operator[](std::int64_t channel) const {
    return with_type([&](auto value) {
      std::memcpy(&value, data() + static_cast<std::size_t>(channel) * sizeof value, sizeof value);
      return static_cast<double>(value);
    });
  }
  void set(std::int64_t channel, double value) {
    with_type([&](auto zero) {
      const auto rounded = static_cast<decltype(zero)>(value);
      std::memcpy(data() + static_cast<std::size_t>(channel) * sizeof rounded, &rounded, sizeof rounded);
    });
  }
  void fill(double value);
  StateEntry entry(std::string name);

 private:
  std::byte* data() { return bound_ != nullptr ? bound_ : own_.data(); }
  const std::byte* data() const { return bound_ != nullptr ? bound_ : own_.data(); }

  DType dtype_;
  std::size_t size_;
  std::vector<std::byte> own_;
  std::byte* bound_ = nullptr;
};

/// num_batches_tracked, absent until it is set; in memory of its own or the caller's.
class BatchCounter {
 public:
  explicit operator bool() const { return exists_; }
  std::int64_t operator*() const { return *data(); }
  BatchCounter& operator=(std::int64_t batches);
  void bind(void* memory) { bound_ = static_cast<std::int64_t*>(memory); }  ///< As ChannelValues::bind.
  StateEntry entry(std::string name) { return {std::move(name), data(), std::nullopt, 1}; }

 private:
  std::int64_t* data() { return bound_ != nullptr ? bound_ : &own_; }
  const std::int64_t* data() const { return bound_ != nullptr ? bound_ : &own_; }

  bool exists_ = false;
  std::int64_t own_ = 0;
  std::int64_t* bound_ = nullptr;
};

/// Parameters, buffers and gradients of a layer; what its options leave out is absent.
struct Parameters {
  Parameters(std::int64_t num_features, const SyncBatchNormOptions& options);

  void reset_running_stats();
  void reset();
  std::vector<StateEntry> state();
  void bind(std::string_view name, void* memory);  ///< As FrameworkHooks::bind.

  DType dtype;
  std::optional<ChannelValues> weight, bias;
  std::optional<ChannelValues> running_mean, running_var;
  BatchCounter num_batches_tracked;
  std::optional<ChannelValues> weight_grad, bias_grad;
};

}  // namespace syncbn::layer
