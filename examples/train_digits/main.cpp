// SPDX-License-Identifier: Apache-2.0

// Data-parallel training with synchronized batch normalization, on real data.
//
//     syncbn-run --worker_num=2 --local_worker_num=2 --join=True train_digits
//     train_digits --threads 4

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "exchange.h"
#include "options.h"
#include "ranks.h"
#include "syncbn/syncbn.h"
#include "table.h"
#include "trainer.h"

namespace {

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {  // once a job
  if (syncbn::get_rank() == 0) write_at_once(fmt::format(format, std::forward<Args>(args)...));
}

std::vector<std::size_t> shares(std::size_t batch) {
  std::vector<std::size_t> counts;
  for (int rank = 0; rank < syncbn::get_group_size(); ++rank)
    counts.push_back(share_of_rank(batch, rank, syncbn::get_group_size()).count());
  return counts;
}

/// The whole global batch's rows on every rank, in the order of its samples, as bits.
std::string digest_of_rows(const std::vector<float>& own_rows, Share share, std::size_t batch,
                           std::size_t columns) {
  std::vector<float> rows(batch * columns);
  std::ranges::copy(own_rows, rows.begin() + static_cast<std::ptrdiff_t>(share.begin * columns));
  give_to_all(rows, {share.begin * columns, share.end * columns});
  Digest digest;
  digest.add(rows);
  return digest.hex();
}

void print_first_step(const Options& options, const Digits& digits) {
  Trainer trainer(options.settings, digits, Statistics::synchronized);
  trainer.differentiate(0);
  Network& network = trainer.network();
  const std::size_t batch = options.settings.batch, hidden = network.hidden();
  const std::string y = digest_of_rows(network.norm_output(), trainer.share(), batch, hidden);
  const std::string dx = digest_of_rows(network.norm_dx(), trainer.share(), batch, hidden);
  Digest running;
  running.add(network.norm().values<float>("running_mean"));
  running.add(network.norm().values<float>("running_var"));
  say("first step, bits of the batch norm: output {} dx {} running statistics {}\n", y, dx, running.hex());
}

/// Scores of the training and of the test images.
struct Scores {
  Score train, test;
};

Scores evaluate(Trainer& trainer, const DigitsSplit& digits) {
  return {trainer.evaluate(digits.train), trainer.evaluate(digits.test)};
}

/// Trains to the end, or to where the options say stop. A line an epoch.
void train(Trainer& trainer, const Options& options, const DigitsSplit& digits) {
  const int last =
      options.stop_after_epoch > 0 ? std::min(options.stop_after_epoch, options.epochs) : options.epochs;
  const auto stop = static_cast<std::size_t>(last);
  while (trainer.epochs() < stop) {
    const auto start = std::chrono::steady_clock::now();
    trainer.run_epoch();
    if (!options.checkpoint.empty()) trainer.save(options.checkpoint);
    const Scores scores = evaluate(trainer, digits);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    say("epoch {:2}: loss {:.4f}, accuracy {:.2f} % training {:.2f} % test, {:.2f} s\n", trainer.epochs(),
        scores.train.mean_loss(), 100 * scores.train.accuracy(), 100 * scores.test.accuracy(),
        seconds.count());
  }
}

void print_result(std::string_view statistics, const Scores& scores) {
  say("  {:<24}{:>12.4f}{:>12.2f} %{:>12.4f}{:>12.2f} %\n", statistics, scores.train.mean_loss(),
      100 * scores.train.accuracy(), scores.test.mean_loss(), 100 * scores.test.accuracy());
}

/// Trains once more with each rank's own statistics; evaluation then uses rank 0's, as is usual.
void compare(const Scores& synchronized, std::size_t epochs, const Options& options,
             const DigitsSplit& digits) {
  const std::vector<std::size_t> counts = shares(options.settings.batch);
  if (counts.size() == 1)
    return say("statistics of the only rank are those of the whole batch: nothing to compare\n");
  if (std::ranges::count(counts, 1U) != 0)
    return say(
        "no comparison: local statistics need 2 samples or more on a rank, and a rank here brings 1\n");
  Trainer local(options.settings, digits.train, Statistics::local);
  while (local.epochs() < epochs) local.run_epoch();
  say("\n  statistics        training: loss      accuracy    test: loss      accuracy\n");
  print_result("synchronized", synchronized);
  print_result("local on each rank", evaluate(local, digits));
  say("  (local: what data-parallel training does without synchronization; evaluated as rank 0 has it)\n");
}

void run(const Options& options) {
  syncbn::init();
  const DigitsSplit digits = load_digits(options.data);
  const RunSettings& settings = options.settings;
  if (settings.batch > digits.train.count())
    throw std::invalid_argument(fmt::format("--batch: {}, expected at most the {} training images",
                                            settings.batch, digits.train.count()));
  say("{} training and {} test images, network {}-{}-{}, {} rank(s), a step's samples: {}\n",
      digits.train.count(), digits.test.count(), kPixels, settings.hidden, kClasses, syncbn::get_group_size(),
      fmt::join(shares(settings.batch), " + "));
  print_first_step(options, digits.train);
  if (options.digest_only) return;

  Trainer trainer(settings, digits.train, Statistics::synchronized);
  if (!options.checkpoint.empty()) {
    trainer.resume(options.checkpoint);
    if (trainer.epochs() > 0) say("resumed from {} after epoch {}\n", options.checkpoint, trainer.epochs());
  }
  train(trainer, options, digits);
  const Scores scores = evaluate(trainer, digits);
  if (trainer.epochs() >= static_cast<std::size_t>(options.epochs))
    compare(scores, trainer.epochs(), options, digits);
  Digest losses;
  losses.add(std::array{scores.train.loss, scores.train.correct, scores.test.loss, scores.test.correct});
  say("whole run, bits after epoch {}: parameters and running statistics {} losses and accuracy {}\n",
      trainer.epochs(), trainer.digest().hex(), losses.hex());
}

}  // namespace

int main(int argc, char** argv) {
  int exit_code = 0;
  const std::optional<Options> options = parse_options(argc, argv, exit_code);
  if (!options) return exit_code;
  return run_on_ranks(options->threads, [&](int) { run(*options); });
}
