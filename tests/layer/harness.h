// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "layer/test_device.h"
#include "oracle/oracle.h"

/// What the tests of the layer share: tensors filled from doubles, one call of the whole group, and the
/// comparison of its bits with the oracle's.
namespace syncbn::testing {

inline DType dtype(oracle::Type type) { return static_cast<DType>(static_cast<int>(type)); }

/// Values by the oracle's own conversions, in the memory order of the layout.
class Tensor {
 public:
  Tensor(Tensor&&) = default;
  Tensor(const Tensor&) = delete;
  /// `values` in C order of (N, C, spatial...); none: filled with bytes that no result has.
  Tensor(oracle::Type type, Shape shape, Layout layout, const std::vector<double>* values = nullptr);
  TensorView view() { return {data_.data(), dtype(type_), shape_, layout_, test_device()}; }
  ConstTensorView view() const { return {data_.data(), dtype(type_), shape_, layout_, test_device()}; }
  std::vector<double> values() const;
  std::vector<std::byte> bytes() const { return {data_.begin(), data_.end()}; }

 private:
  std::size_t place(std::size_t i) const;

  oracle::Type type_;
  Shape shape_;
  Layout layout_;
  DeviceVector<std::byte> data_;
};

/// Entries of a layer's state by the oracle's conversions.
std::vector<double> read_entry(SyncBatchNorm& layer, const std::string& name);
void write_entry(SyncBatchNorm& layer, const std::string& name, const std::vector<double>& values);
oracle::State read_state(SyncBatchNorm& layer);
void write_state(SyncBatchNorm& layer, const oracle::State& state);

/// One forward, and one backward where the shares have dy, by a whole group.
struct Case {
  oracle::Settings settings;
  oracle::State state;
  std::int64_t channels = 1;
  std::vector<oracle::Share> shares;  ///< One a rank.
  bool training = true;               ///< Evaluation is for one share.
  Layout layout = Layout::channels_first;
  int spatial_dims = 1;  ///< How many the places are spread over; 0 where there is one place.
  int threads = 0;       ///< set_num_threads on every rank.
  /// Runs on each rank's thread just before and just after the layer's calls.
  std::function<void()> before_calls, after_calls;
};
std::string describe(const Case& c);
Shape shape_of(const Case& c, const oracle::Share& share);
SyncBatchNormOptions options_of(const Case& c);
/// Of the library, on ranks as threads. Statistics and state must be the same on every rank.
oracle::Result run_library(const Case& c);
oracle::Result run_oracle(const Case& c);

/// One all_reduce_matmul by a whole group.
struct Matmul {
  oracle::Type type = oracle::Type::float32;
  std::int64_t a_columns = 1, b_columns = 1;
  std::vector<oracle::Factors> shares = {};  ///< One a rank.
  int threads = 0;                           ///< set_num_threads on every rank.
};
/// Runs the library on ranks as threads. c must be the same on every rank.
std::vector<double> run_library(const Matmul& m);
std::vector<double> run_oracle(const Matmul& m);

/// The same bits; NaNs are all one.
::testing::AssertionResult same_bits(const std::vector<double>& expected, const std::vector<double>& actual);
/// Everything in both results.
::testing::AssertionResult same_bits(const oracle::Result& expected, const oracle::Result& actual);

}  // namespace syncbn::testing
