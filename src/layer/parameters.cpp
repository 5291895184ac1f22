#include "layer/parameters.h"

#include <cstring>

namespace syncbn::layer {
namespace {

template <class Body>
auto with_type(DType dtype, const Body& body) {
  switch (dtype) {
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

}  // namespace

ChannelValues::ChannelValues(DType dtype, std::int64_t channels, double value)
    : dtype_(dtype), size_(static_cast<std::size_t>(channels)), bytes_(size_ * size_of(dtype)) {
  fill(value);
}

double ChannelValues::operator[](std::int64_t channel) const {
  return with_type(dtype_, [&](auto value) {
    std::memcpy(&value, bytes_.data() + static_cast<std::size_t>(channel) * sizeof value, sizeof value);
    return static_cast<double>(value);
  });
}

void ChannelValues::set(std::int64_t channel, double value) {
  with_type(dtype_, [&](auto zero) {
    const auto rounded = static_cast<decltype(zero)>(value);
    std::memcpy(bytes_.data() + static_cast<std::size_t>(channel) * sizeof rounded, &rounded, sizeof rounded);
  });
}

void ChannelValues::fill(double value) {
  for (std::size_t i = 0; i < size_; ++i) set(static_cast<std::int64_t>(i), value);
}

StateEntry ChannelValues::entry(std::string name) { return {std::move(name), bytes_.data(), dtype_, size_}; }

Parameters::Parameters(std::int64_t num_features, const SyncBatchNormOptions& options) {
  if (options.affine) {
    weight.emplace(options.dtype, num_features, 1.0);
    bias.emplace(options.dtype, num_features, 0.0);
    weight_grad.emplace(options.dtype, num_features, 0.0);
    bias_grad.emplace(options.dtype, num_features, 0.0);
  }
  if (options.track_running_stats) {
    running_mean.emplace(options.dtype, num_features, 0.0);
    running_var.emplace(options.dtype, num_features, 1.0);
    num_batches_tracked = 0;
  }
}

void Parameters::reset_running_stats() {
  if (!running_mean) return;
  running_mean->fill(0.0);
  running_var->fill(1.0);
  num_batches_tracked = 0;
}

void Parameters::reset() {
  reset_running_stats();
  if (!weight) return;
  weight->fill(1.0);
  bias->fill(0.0);
}

std::vector<StateEntry> Parameters::state() {
  std::vector<StateEntry> entries;
  if (weight) {
    entries.push_back(weight->entry("weight"));
    entries.push_back(bias->entry("bias"));
  }
  if (running_mean) {
    entries.push_back(running_mean->entry("running_mean"));
    entries.push_back(running_var->entry("running_var"));
    entries.push_back({"num_batches_tracked", &*num_batches_tracked, std::nullopt, 1});
  }
  return entries;
}

}  // namespace syncbn::layer
