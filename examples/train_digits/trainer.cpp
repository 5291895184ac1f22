// SPDX-License-Identifier: Apache-2.0
#include "trainer.h"

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <span>
#include <stdexcept>

#include "bytes.h"
#include "exchange.h"
#include "syncbn/group.h"

namespace {

constexpr float kMomentum = 0.9F;

/// Name of a group: the world, or this rank alone.
std::string group_of(bool all_ranks) {
  if (all_ranks) return std::string(syncbn::kWorldGroup);
  const std::string name = "self-" + std::to_string(syncbn::get_rank());
  syncbn::create_group(name, {syncbn::get_rank()});
  return name;
}

}  // namespace

Trainer::Trainer(const RunSettings& settings, const Digits& digits, Statistics statistics)
    : settings_(settings),
      statistics_(statistics),
      digits_(digits),
      share_(share_of_rank(settings.batch, syncbn::get_rank(), syncbn::get_group_size())),
      network_(settings.hidden, settings.seed, group_of(statistics == Statistics::synchronized),
               group_of(!settings.round_on_each_rank)),
      velocity_(network_.gradients().size()),
      order_(epoch_order(digits.count(), settings.seed, 0)) {}

void Trainer::differentiate(std::size_t step) {
  const auto batch = std::span(order_).subspan(step * settings_.batch, settings_.batch);
  network_.train_step(select(digits_, batch.subspan(share_.begin, share_.count())), settings_.batch);
}

void Trainer::run_epoch() {
  order_ = epoch_order(digits_.count(), settings_.seed, epochs_);
  for (std::size_t step = 0; step < steps_per_epoch(); ++step) {
    differentiate(step);
    update();
  }
  ++epochs_;
}

Score Trainer::evaluate(const Digits& digits) {
  const std::size_t count = digits.count();
  if (statistics_ == Statistics::synchronized)
    return network_.evaluate(digits, share_of_rank(count, syncbn::get_rank(), syncbn::get_group_size()));
  return network_.evaluate(digits, {0, syncbn::get_rank() == 0 ? count : 0});
}

void Trainer::update() {
  const auto rate = static_cast<float>(settings_.learning_rate);
  std::size_t i = 0;
  for (const auto values : network_.parameters()) {
    for (float& value : values) {
      velocity_[i] = kMomentum * velocity_[i] + network_.gradients()[i];
      value -= rate * velocity_[i];
      ++i;
    }
  }
}

Checkpoint Trainer::snapshot() {
  Checkpoint checkpoint{settings_,
                        static_cast<std::uint32_t>(epochs_),
                        network_.norm().values<std::int64_t>("num_batches_tracked")[0],
                        {}};
  const auto append = [&](std::span<const float> values) {
    checkpoint.values.insert(checkpoint.values.end(), values.begin(), values.end());
  };
  for (const auto values : network_.parameters()) append(values);
  append(velocity_);
  append(network_.norm().values<float>("running_mean"));
  append(network_.norm().values<float>("running_var"));
  return checkpoint;
}

void Trainer::restore(const Checkpoint& checkpoint) {
  std::span<const float> rest = checkpoint.values;
  const auto take = [&](std::span<float> values) {
    std::ranges::copy(rest.first(values.size()), values.begin());
    rest = rest.subspan(values.size());
  };
  for (const auto values : network_.parameters()) take(values);
  take(velocity_);
  take(network_.norm().values<float>("running_mean"));
  take(network_.norm().values<float>("running_var"));
  network_.norm().values<std::int64_t>("num_batches_tracked")[0] = checkpoint.batches_tracked;
  epochs_ = checkpoint.epochs;
}

void Trainer::save(const std::string& path) {
  if (syncbn::get_rank() == 0) save_checkpoint(path, snapshot());
}

void Trainer::resume(const std::string& path) {
  Checkpoint checkpoint = snapshot();  // of the right size; unchanged if there is no file
  std::exception_ptr failure;
  std::array<double, 3> head{};  // rank 0 failed, epochs, batches tracked
  if (syncbn::get_rank() == 0) {
    try {
      if (std::filesystem::exists(path)) {
        const std::size_t expected = checkpoint.values.size();
        checkpoint = load_checkpoint(path, settings_);
        if (checkpoint.values.size() != expected) throw FileError(path + ": the wrong number of values");
      }
    } catch (const std::exception&) {
      failure = std::current_exception();
    }
    head = {failure ? 1.0 : 0.0, static_cast<double>(checkpoint.epochs),
            static_cast<double>(checkpoint.batches_tracked)};
  }
  syncbn::all_reduce_sum(head);  // the other ranks learn of a failure, in place of waiting for rank 0
  if (failure) std::rethrow_exception(failure);
  if (head[0] != 0) throw FileError(path + ": rank 0 could not resume from it");

  give_to_all(checkpoint.values, syncbn::get_rank() == 0 ? Share{0, checkpoint.values.size()} : Share{0, 0});
  checkpoint.epochs = static_cast<std::uint32_t>(head[1]);
  checkpoint.batches_tracked = static_cast<std::int64_t>(head[2]);
  restore(checkpoint);
}

Digest Trainer::digest() {
  const Checkpoint all = snapshot();
  Digest digest;
  digest.add(all.values);
  digest.add(all.batches_tracked);
  Digest parameters;
  for (const auto values : network_.parameters()) parameters.add(values);
  if (!same_on_all_ranks(parameters.value()))
    throw std::runtime_error("parameters differ between the ranks: their updates have gone apart");
  return digest;
}
