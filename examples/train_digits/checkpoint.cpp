// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.h"

#include <fmt/core.h>

#include <bit>
#include <span>
#include <string_view>

#include "bytes.h"
#include "data.h"

namespace {

constexpr std::string_view kMagic = "digits-checkpoint\n";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kChecksumBytes = 4;

std::string architecture(std::uint64_t inputs, std::uint64_t hidden, std::uint64_t outputs) {
  return fmt::format("{}-{}-{}", inputs, hidden, outputs);
}

template <class T>
void expect_same(const std::string& path, std::string_view what, const T& found, const T& expected) {
  if (found != expected)
    throw FileError(fmt::format("{}: made with {} {}, this run has {}", path, what, found, expected));
}

}  // namespace

void save_checkpoint(const std::string& path, const Checkpoint& checkpoint) {
  ByteWriter file;
  file.text(kMagic);
  file.u32(kVersion);
  file.u32(kPixels);
  file.u32(checkpoint.settings.hidden);
  file.u32(kClasses);
  file.u32(checkpoint.settings.batch);
  file.u64(checkpoint.settings.seed);
  file.u64(std::bit_cast<std::uint64_t>(checkpoint.settings.learning_rate));
  file.u32(checkpoint.epochs);
  file.u64(static_cast<std::uint64_t>(checkpoint.batches_tracked));
  file.u64(checkpoint.values.size());
  for (const float v : checkpoint.values) file.u32(std::bit_cast<std::uint32_t>(v));
  file.u32(crc32(file.bytes()));
  write_file_atomically(path, file.bytes());
}

Checkpoint load_checkpoint(const std::string& path, const RunSettings& expected) {
  const std::vector<std::uint8_t> bytes = read_file(path);
  ByteReader file(path, bytes);
  const auto magic = file.take(kMagic.size());
  if (std::string_view(reinterpret_cast<const char*>(magic.data()), magic.size()) != kMagic)
    throw FileError(path + ": not a checkpoint of train_digits");
  expect_same(path, "checkpoint version", file.u32(), kVersion);

  Checkpoint checkpoint;
  const std::uint32_t inputs = file.u32();
  checkpoint.settings.hidden = file.u32();
  const std::uint32_t outputs = file.u32();
  checkpoint.settings.batch = file.u32();
  checkpoint.settings.seed = file.u64();
  checkpoint.settings.learning_rate = std::bit_cast<double>(file.u64());
  checkpoint.epochs = file.u32();
  checkpoint.batches_tracked = static_cast<std::int64_t>(file.u64());
  const std::uint64_t count = file.u64();
  if (file.left() < kChecksumBytes || (file.left() - kChecksumBytes) / 4 < count)
    throw FileError(
        fmt::format("{}: truncated or damaged: {} bytes left for {} values", path, file.left(), count));
  for (std::uint64_t i = 0; i < count; ++i) checkpoint.values.push_back(std::bit_cast<float>(file.u32()));
  const std::uint32_t computed = crc32(std::span(bytes).first(bytes.size() - file.left()));
  const std::uint32_t stored = file.u32();
  if (computed != stored || file.left() != 0)
    throw FileError(fmt::format("{}: damaged: CRC-32 is {:08x}, expected {:08x}, with {} bytes too many",
                                path, computed, stored, file.left()));

  // After the checksum, so that a damaged file is not taken for one of another run.
  expect_same(path, "a network", architecture(inputs, checkpoint.settings.hidden, outputs),
              architecture(kPixels, expected.hidden, kClasses));
  expect_same(path, "--batch", checkpoint.settings.batch, expected.batch);
  expect_same(path, "--seed", checkpoint.settings.seed, expected.seed);
  expect_same(path, "--lr", checkpoint.settings.learning_rate, expected.learning_rate);
  return checkpoint;
}
