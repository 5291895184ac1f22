// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdlib>

#include "data.h"

namespace {

std::string check_rate(const std::string& number) {  // empty: it is in order
  const double rate = std::strtod(number.c_str(), nullptr);
  return rate > 0 && std::isfinite(rate) ? "" : "expected a finite number above 0, not " + number;
}

}  // namespace

std::optional<Options> parse_options(int argc, char** argv, int& exit_code) {
  CLI::App app(
      "Learns handwritten digits on the ranks of its launcher (syncbn-run, mpirun, torchrun's variables),\n"
      "with batch statistics of all ranks together; then compares with statistics of each rank alone.");
  app.option_defaults()->always_capture_default();
  Options options;
  options.data = default_digits_file();
  app.add_option("--epochs", options.epochs, "Passes over the training images")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--batch", options.settings.batch,
                 "Images of a step, all ranks together; rank r brings r + 1 parts")
      ->check(CLI::Range(2, 1024));
  app.add_option("--hidden", options.settings.hidden, "Features of the batch norm")
      ->check(CLI::Range(1, 4096));
  app.add_option("--seed", options.settings.seed, "Of initial weights and the order of images");
  app.add_option("--lr", options.settings.learning_rate, "Learning rate of SGD with momentum 0.9")
      ->check(check_rate);
  app.add_option("--data", options.data, "The digits, as examples/data/README.md describes");
  app.add_option("--checkpoint", options.checkpoint, "Saved after every epoch; resumed from if it exists");
  app.add_option("--stop_after_epoch", options.stop_after_epoch, "Ends there, as if interrupted (0: never)")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--round_on_each_rank", options.settings.round_on_each_rank,
               "Rounds each rank's gradients before they are added: bits then depend on the number of ranks");
  app.add_flag("--digest_only", options.digest_only, "Prints the digests of the first step and ends");
  app.add_option("--threads", options.threads, "Ranks as threads of this process (0: the launcher's ranks)")
      ->check(CLI::Range(0, 64));
  try {
    app.parse(argc, argv);
    return options;
  } catch (const CLI::ParseError& end) {
    exit_code = app.exit(end);
    return std::nullopt;
  }
}
