// SPDX-License-Identifier: Apache-2.0
#include "checked_layer.h"

#include <fmt/core.h>

#include <cstring>
#include <memory>
#include <stdexcept>

#include "../lone_communicator.h"

namespace syncbn::reliability {
namespace {

SyncBatchNormOptions alone(SyncBatchNormOptions options) {
  options.process_group = make_group("alone", std::make_unique<testing::LoneCommunicator>());
  return options;
}

std::size_t bytes_in(const StateEntry& entry) {
  return entry.size * (entry.dtype ? size_of(*entry.dtype) : sizeof(std::int64_t));
}

std::vector<std::byte> bytes_of(SyncBatchNorm& layer) {
  std::vector<std::byte> bytes;
  for (const StateEntry& entry : layer.state()) {
    const auto* data = static_cast<const std::byte*>(entry.data);
    bytes.insert(bytes.end(), data, data + bytes_in(entry));
  }
  return bytes;
}

// splitmix64 to a multiple of 2^-8 in [-16, 16)
float value(std::uint64_t seed) {
  std::uint64_t word = seed * 0x9e3779b97f4a7c15u;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return static_cast<float>(static_cast<int>(word >> 51) - 4096) / 256;
}

}  // namespace

CheckedLayer::CheckedLayer(std::int64_t channels, const SyncBatchNormOptions& options)
    : channels_(channels), layer_(channels, options), alone_(channels, alone(options)) {}

CheckedLayer::Data CheckedLayer::data(int step, const Shares& shares, std::size_t mine,
                                      std::uint64_t kind) const {
  constexpr std::int64_t kPlaces = 3;
  Data data;
  std::int64_t samples = 0;
  for (std::size_t s = 0; s < shares.size(); ++s) {
    if (s == mine) data.offset = data.all.size();
    const std::int64_t size = shares[s].samples * channels_ * kPlaces;
    for (std::int64_t i = 0; i < size; ++i) {
      const auto who = static_cast<std::uint64_t>(shares[s].rank * 1000 + step);
      data.all.push_back(value((who * 4 + kind) * 1000003 + static_cast<std::uint64_t>(i)));
    }
    samples += shares[s].samples;
  }
  data.all_shape = {samples, channels_, kPlaces};
  data.own_shape = {shares[mine].samples, channels_, kPlaces};
  const auto begin = data.all.begin() + static_cast<std::ptrdiff_t>(data.offset);
  data.own.assign(begin, begin + data.own_shape.elements());
  return data;
}

void CheckedLayer::compare(const std::vector<float>& own, const std::vector<float>& all, std::size_t offset,
                           const char* what) {
  if (!own.empty() && std::memcmp(own.data(), all.data() + offset, own.size() * sizeof(float)) != 0)
    throw std::logic_error(fmt::format("{} has other bits than that of the whole batch", what));
}

void CheckedLayer::forward(int step, const Shares& shares, std::size_t mine) {
  const Data x = data(step, shares, mine, 0);
  std::vector<float> y(x.own.size());
  std::vector<float> expected(x.all.size());
  layer_.forward(view(x.own, x.own_shape), view(y, x.own_shape));
  alone_.forward(view(x.all, x.all_shape), view(expected, x.all_shape));
  compare(y, expected, x.offset, "y");
  check_state();
}

void CheckedLayer::backward(int step, const Shares& shares, std::size_t mine) {
  const Data x = data(step, shares, mine, 0);
  const Data dy = data(step, shares, mine, 1);
  std::vector<float> dx(x.own.size());
  std::vector<float> expected(x.all.size());
  layer_.backward(view(dy.own, x.own_shape), view(x.own, x.own_shape), view(dx, x.own_shape));
  alone_.backward(view(dy.all, x.all_shape), view(x.all, x.all_shape), view(expected, x.all_shape));
  compare(dx, expected, x.offset, "dx");
}

std::vector<std::byte> CheckedLayer::state() { return bytes_of(layer_); }

void CheckedLayer::join_again(const SyncBatchNormOptions& options) {
  SyncBatchNorm fresh(channels_, options);
  const std::vector<StateEntry> from = layer_.state();
  const std::vector<StateEntry> to = fresh.state();
  for (std::size_t i = 0; i < to.size(); ++i) std::memcpy(to[i].data, from[i].data, bytes_in(to[i]));
  layer_ = std::move(fresh);
}

void CheckedLayer::check_state() {
  if (state() != bytes_of(alone_))
    throw std::logic_error("the state has other bits than that of the whole batch");
}

}  // namespace syncbn::reliability
